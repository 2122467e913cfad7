"""Settings as frozen dataclasses that check themselves. Imports nothing of fastmoco, and neither
numpy nor torch: the command line reads its flags from here.
"""
