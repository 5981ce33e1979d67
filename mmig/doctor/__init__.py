"""What this machine has of what the repository needs, and what to do where something is wrong.

Nothing here imports torch: `probe` does, in a process of its own, so that a broken one is a finding and no traceback.
"""
