"""The machine: devices, streams, memory, ranks, compilers, versions. The only folder that names
torch.cuda. Imports recipe alone.
"""
