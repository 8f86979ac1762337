"""The vault's core: policy, accounts, and the worker processes that hold the token.

`app` wires; `front` is the pipe to the front, `sessions` drives what the front opens, `workers` keeps the processes
that run it, `commit` is the one writer of all that is durable.
"""
