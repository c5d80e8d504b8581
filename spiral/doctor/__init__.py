"""`spiral doctor`: whether a run can start, on every machine that it would use.

Data flows one way: `facts` (what a machine has) -> `nodes` (the facts of every node, and how they reach each other) ->
`checks` (pure functions: findings, with a cure for each fault) -> `report` (one table, or JSON).
"""
