"""Whose turn it is to turn the loop: a seat that a thread lends while it runs a short handler itself.

A hand-over to a worker's thread and back costs four switches of threads, 25 to 55 us of CPU, more than the whole event.
So while events stream, the thread that turns the loop is a worker's carrier, and runs a handler that has shown itself
short on the spot. A handler that waits must stall only itself all the same: before the call the seat is lent, and
an alarm of the kernel is put off. When it goes off, a deputy takes a lease that goes on for more than a millisecond: it
turns the loop from then on, the other thread goes on as what it then is, the carrier of a slow worker. See
docs/decisions/0008-the-loops-seat.md.

Laws:
- One thread has the seat, and only it touches what belongs to the loop. While the seat is lent nobody does.
- A lease is one element of a deque: `remove` gives the seat back to its lender or to the deputy, never to both, and
  never to a lender of before whose handler ends while the seat is lent again.
- Nothing is led unless a deputy watches; it watches no more, without any wake-up, when nothing was led for a while.
"""

from __future__ import annotations

from _thread import allocate_lock, get_ident
from collections import deque

from nuclio_edge.core import port
from nuclio_edge.functions import running

from .alarm import Alarm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nuclio_edge.core.loop import Loop

    from .carriers import Carrier, Pool
    from .thread_worker import Worker

# A lease that lasts longer is looked at once more, then taken: a handler that waits holds the loop up for three to six
# milliseconds. Taken at once, the seat would move whenever the kernel gave the processor to another process.
PATIENCE_NS = 1_000_000
AGAIN_NS = 500_000
# So often at most a lease puts the alarm off: to set it costs 2 us in a row of such calls, but 15 between two turns of
# the loop. By so much that one found two milliseconds old lasts beyond the next turn of a stream, which takes up to 3.
PUT_OFF_MS = 2
PUT_OFF_NS = PUT_OFF_MS * 1_000_000 + 3 * PATIENCE_NS
LONG_AGO = -PUT_OFF_MS
QUIET_NS = 16_000_000  # without a lease for so long the deputy watches no more
STREAM_GAP_MS = 5  # hand-overs that follow each other within this time, so many of them, are a stream
STREAM_LENGTH = 16
MOVE_MS = 50  # the seat goes to the carrier of another worker when it was of no use for so long
# A led worker leaves the rest of its queue for the next turn, and the workers behind it: the loop must not stand still.
SERVE_NS = 500_000
# What became of the seat when a thread stops turning the loop.
STOPPED = 0  # the loop has ended
ELSEWHERE = 1
ENDED = 2  # elsewhere, and this thread's time is over: its worker was abandoned


class Seat:
    """Who turns the loop; every method but `watch` and `sit` is called by the thread that does."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.carrier: Carrier | None = None  # who has the seat; None: the thread that called `run`
        self.watching = False  # whether the deputy is awake
        self.taken = 0  # how often the deputy took the seat from a handler that did not end
        self.led = 0  # how many times a worker was led
        self._pool: Pool | None = None
        self._deputy: Carrier | None = None
        self._heir: Carrier | None = None
        self._errands: deque[Worker] = deque()
        self._lent: deque[int] = deque()
        self._lease = 0
        self._lent_at = 0
        self._alarm: Alarm | None = None  # the deputy makes it
        self._put_off_ms = LONG_AGO  # when a lease has put the alarm off, unless the deputy has set it since
        self._begun = False  # whether the deputy's thread has begun to watch
        self._turning = self.pinned = False
        self.last_ms = 0  # when a worker was started, or has handed back, last
        self._used_ms = 0
        self._streak = 0
        self._over = allocate_lock()
        self._error: BaseException | None = None

    def attach(self, pool: Pool) -> None:
        """Let the workers of this pool be led."""
        self._pool = pool

    def pin(self) -> None:
        """Lead no worker from now on: an inline function may hold what belongs to the thread that made it (sqlite3).

        Where a bound worker's carrier has the seat, another carrier gets it at the end of this turn and keeps it.
        """
        if not self.pinned:
            self.pinned = True
            worker = self.carrier.worker if self.carrier is not None else None
            if worker is not None and worker.holds_state():
                self.leave(worker)

    def run(self) -> None:
        """Turn the loop until it is stopped, here or on whichever carrier has the seat then; returns on this thread."""
        self.loop.running = self._turning = True
        self._over.acquire()
        if self._turn(None):
            self._over.acquire()
        self._over.release()
        if self.carrier is not None:
            self.carrier.thread.join()
            self.carrier = None
        self.loop.thread = get_ident()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End the threads of the deputy and of who was to have the seat next."""
        self._turning = self.watching = False
        if self._alarm is not None:
            self._alarm.set(1)
        for carrier in (self._deputy, self._heir):
            if carrier is not None and self._pool is not None:
                self._pool.dismiss(carrier)
        self._deputy = self._heir = None
        if self._alarm is not None:
            self._alarm.close()
            self._alarm = None

    # -- asked by the pool, on the loop -------------------------------------------------------------------------------

    def leads(self, worker: Worker) -> bool:
        """Whether the worker will be served by the loop's own thread when this turn ends."""
        runner = worker.runner
        if not self._turning or runner.slow or not worker.ready or self.pinned:
            return False
        if not self.watching:
            self._notice(worker)
            return False
        mine, theirs = self.carrier, worker.carrier
        if theirs is not mine and (mine is None or mine.bound() or (theirs is not None and theirs.bound())):
            # Bound to their threads, one of the two: the seat goes to the other one, or the event does.
            if theirs is None or self._heir is not None or self.loop.now - self._used_ms < MOVE_MS:
                return False
            self._used_ms = self.loop.now
            self._heir = theirs
            if self._pool is not None:
                self._pool.idle.pop(theirs, None)
        self._errands.append(worker)
        return True

    def leave(self, worker: Worker) -> bool:
        """Give the seat to another carrier when this turn ends: the present one has this slow worker to serve.

        False when there is no thread to be had.
        """
        if self._heir is None and self._pool is not None:
            self._heir = self._pool.spare(worker)
        return self._heir is not None

    def holds(self, carrier: Carrier) -> bool:
        """Whether this carrier turns the loop, or will when this turn ends."""
        return carrier is self.carrier or carrier is self._heir

    def withdraw(self, worker: Worker) -> bool:
        """Take back a worker that was to be led; whether it was."""
        try:
            self._errands.remove(worker)
        except ValueError:
            return False
        return True

    def _notice(self, worker: Worker) -> None:
        """Count hand-overs; a stream of them wakes the deputy."""
        now = self.loop.now
        self._streak = self._streak + 1 if now - self.last_ms <= STREAM_GAP_MS else 0
        self.last_ms = now
        if self._streak < STREAM_LENGTH or self._pool is None:
            return
        self._streak = 0
        if self._deputy is None:
            self._deputy = self._pool.spare(worker)
            if self._deputy is None:
                return
            self._deputy.duty = self.watch
            self._deputy.go.release()
        elif self._begun and self._alarm is not None:  # it has ended watching, and waits for its alarm
            self.watching = True
            self._put_off_ms = LONG_AGO
            self._alarm.set(QUIET_NS)

    # -- with the seat ------------------------------------------------------------------------------------------------

    def sit(self, carrier: Carrier) -> bool:
        """Take the seat that was given to this carrier; true when its thread's time is over."""
        outcome = self._turn(carrier)
        if outcome == STOPPED:
            self._over.release()
        return outcome != ELSEWHERE

    def _turn(self, carrier: Carrier | None) -> int:
        """Turn the loop while the seat is here; returns STOPPED, ELSEWHERE or ENDED."""
        loop = self.loop
        errands = self._errands
        clock = port.clock
        self.carrier = carrier
        loop.thread = get_ident()
        try:
            while loop.running:
                if errands:
                    until = clock() + SERVE_NS
                    while errands and self._heir is None:
                        outcome = self._serve(errands.popleft())
                        if outcome:
                            return outcome
                        if clock() >= until:
                            break
                # Asked before the loop waits: who is bound to this thread may have got work just now.
                if self._heir is not None:
                    heir, self._heir = self._heir, None
                    self._hand_on(heir)
                    return ELSEWHERE
                loop.turn(0) if errands else loop.turn()
        except BaseException as error:  # noqa: BLE001 - raised again by `run`, on the thread that called it
            if self.carrier is not carrier:
                return ELSEWHERE
            self._error = error
        return STOPPED

    def _hand_on(self, heir: Carrier) -> None:
        pool = self._pool
        if self.carrier is not None and pool is not None:
            pool.rest(self.carrier)
        heir.duty = self.sit
        heir.go.release()

    def _serve(self, worker: Worker) -> int:
        """Let a worker serve its queue on this thread; ELSEWHERE or ENDED when the deputy has taken the seat."""
        carrier = self.carrier
        pool = self._pool
        assert pool is not None  # noqa: S101 - workers come from it
        if self.pinned or carrier is None or (worker.carrier is not carrier and not pool.seize(carrier, worker)):
            worker.runner.look_after()
            pool.dispatch(worker)  # it, or the one served just before, is bound to its thread by now
            return 0
        loop = self.loop
        loop.thread = 0
        self._lent_at = port.clock()
        lease = self._lease = self._lease + 1
        self._lent.append(lease)
        alarm = self._alarm
        if loop.now - self._put_off_ms >= PUT_OFF_MS and alarm is not None:
            self._put_off_ms = loop.now
            alarm.set(PUT_OFF_NS)
        # In this order: the deputy says that it watches no more, then looks for a lease.
        if not self.watching and self._regain(lease):
            worker.runner.look_after()
            pool.dispatch(worker)
            return 0
        error, ended = worker.carry(SERVE_NS)
        running.bind(None)
        if not self._regain(lease):
            worker.hand_back(error, ended)
            return ENDED if ended else ELSEWHERE
        self._used_ms = loop.now
        self.led += 1
        if error is None and not ended:
            try:
                worker.runner.served(worker)
            except Exception as fault:  # noqa: BLE001 - one bad thing stays one bad thing
                loop.on_error(fault, worker.runner.served)
        else:
            worker.hand_back(error, ended)
            loop._guard(pool.collect)
        while loop._end:  # acknowledgements and what was published, without another wait
            end, loop._end = loop._end, []
            for one in end:
                loop._guard(one)
        return 0

    def _regain(self, lease: int) -> bool:
        """Take the seat back that was lent; false when it is the deputy's by now, or was and is lent again."""
        try:
            self._lent.remove(lease)
        except ValueError:
            return False
        self.loop.thread = get_ident()
        return True

    # -- the deputy's thread ------------------------------------------------------------------------------------------

    def watch(self, carrier: Carrier) -> bool:
        """Take the seat from a handler that keeps it for too long; true when the time of this thread is over."""
        alarm = self._alarm
        if alarm is None:
            try:
                alarm = Alarm()
            except (OSError, ImportError, AttributeError):
                self.pinned = True  # nobody can watch: nothing is led
                carrier.go.acquire()
                return True
            self._alarm = alarm
        lent = self._lent
        seen, quiet = self._lease, False
        late = 0  # the lease that was found to last too long, and is looked at once more
        self._begun = self.watching = True
        alarm.set(PATIENCE_NS)
        while True:
            alarm.wait()
            if not self._turning:
                return True
            lease = self._lease  # before `_lent_at`, which is written first
            if lent and port.clock() - self._lent_at >= PATIENCE_NS:
                if lease != late:  # its thread may not have had a processor, and is about to end it
                    late = lease
                    alarm.set(AGAIN_NS)
                    continue
                try:
                    lent.remove(lease)
                except ValueError:
                    pass
                else:
                    self.watching = self._begun = False
                    self._deputy = None
                    self.taken += 1
                    worker = self.carrier.worker if self.carrier is not None else None
                    if worker is not None:
                        worker.runner.look_after()  # before the call that takes so long it may have made others
                    return self.sit(carrier)
            if quiet and lease == seen and not lent:
                self.watching = False
                if not lent:
                    continue  # until `_notice` sets the alarm again
                self.watching = True
            # In this order: who lends adds to `_lent`, then looks at `_put_off_ms`.
            alarm.set(QUIET_NS)
            self._put_off_ms = LONG_AGO
            seen, quiet = self._lease, not lent
            if not quiet:
                alarm.set(PATIENCE_NS)
