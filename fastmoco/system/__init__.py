"""The machine: devices, streams, memory, ranks, compilers, versions. Only this folder may use
torch.cuda. Imports only recipe.
"""
