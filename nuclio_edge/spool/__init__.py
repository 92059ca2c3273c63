"""The spool: a durable, bounded log of records on disk. `spool.py` has the contract, and what calls the others.

group.py       what is appended between two commits         segment.py    one file: header, records, index
settling.py    what is needed no more                       log.py        all files, as the loop knows them
plan.py        where the records of a group go              lanes.py      what is counted, by kind and key
writer.py      the thread that writes                       tallies.py    numbers that ride along
recovery.py    what is there after a start                  room.py       what is copied or given up at the limit
reading.py     records by id, kind and key                  refusal.py    what could not be stored
cursor.py      readers that remember where they are         budget.py     writes a day
unwritten.py   what stands for a spool without a file       disk.py       the file operations whose order matters
"""
