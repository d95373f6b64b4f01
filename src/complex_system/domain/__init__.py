"""What the data are: the declared data set, records, their keys, pages of records, and the lab's dummy data.

No I/O but reading a declaration; imports nothing of ours but ``errors``.
"""
