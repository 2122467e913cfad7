"""The public functions of fastmoco, one per command, for Python. Imports every room below; the
package's own __init__ gives the functions their names (fastmoco.train).
"""
