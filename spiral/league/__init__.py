"""The league: which match is played next, and against whom."""
