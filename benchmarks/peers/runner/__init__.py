"""What run.py is made of: one idea a module, the standard library only."""
