"""Durable delivery: what stands between triggers and publishers on one side, and the spool on the other.

trigger.py    a durable trigger: stored when its handler takes longer than a moment, acknowledged then
overflow.py   what is on disk alone: the events that its inbox has no room for
token.py      of an event whose source has been told
staging.py    the moment that an event waits before it is stored
backlog.py    what is on disk of one trigger or outbox, and which of it is in memory
stored.py     an event as it is stored
outcome.py    what came of an event and is not yet with others
outbox.py     messages that could not be sent yet
ledger.py     counters that survive a restart
dead_letters.py    what has failed for good
one_at_a_time.py   after a crash: a poison event runs alone
delivery.py   all of it together, for one processor
"""
