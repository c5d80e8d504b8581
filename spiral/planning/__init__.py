"""`spiral plan`: what a run needs, computed before it is started."""
