"""Locust, in a process of its own: the only module of Tonnage that imports it.

Importing locust patches the process (gevent), so this file is always executed, never
imported. One master and N workers; the master speaks JSON lines with
:class:`loadtests.fleet.Fleet` on stdin and stdout.

    locust_process.py master PORT
    locust_process.py worker PORT INDEX

Each worker takes its shard of the schedule and dispatches it from a timerfd that gevent
waits for as an I/O event: libev's own timers are only as fine as epoll's millisecond, and
spinning would starve the receiving side. What it saw it leaves in a file, and says so.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import os  # noqa: E402
import random  # noqa: E402
import ssl  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections import deque  # noqa: E402
from functools import cache, partial  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
from gevent.event import Event  # noqa: E402
from gevent.fileobject import FileObjectThread  # noqa: E402
from locust import FastHttpUser, events, task  # noqa: E402
from locust.contrib.fasthttp import FastHttpSession  # noqa: E402
from locust.env import Environment  # noqa: E402
from locust.exception import StopUser  # noqa: E402

from loadtests.crew import Crew, files_for  # noqa: E402
from loadtests.http_call import HttpCall  # noqa: E402
from loadtests.locust_master import Master  # noqa: E402
from loadtests.payloads import Payloads  # noqa: E402
from loadtests.schedule import Schedule  # noqa: E402
from loadtests.stamped import Arrival, StampedPool  # noqa: E402
from loadtests.tally import Sample, Tally  # noqa: E402
from loadtests.timerfd import Timer  # noqa: E402
from loadtests.user_tasks import Player, load_tasks  # noqa: E402
from serving.app import CELL_HEADER  # noqa: E402
from serving.cpu_time import thread_times  # noqa: E402
from serving.errors import BadInput  # noqa: E402
from serving.v2 import HEADER_LENGTH  # noqa: E402

_LEAD_S = 0.05  # from the word go to the first due request
_WARM_TOGETHER = 4  # a small server's queue of connections is hardly longer


class Drive:
    """One run on one worker: hands due requests to parked users and collects samples."""

    def __init__(self, spec: dict[str, Any], index: int, crew: Crew) -> None:
        self.spec = spec
        self.payloads = Payloads.load(Path(spec["payloads"]))
        self.call = HttpCall.model_validate(spec["call"])
        self.tally = Tally(self.payloads, spec["cell_id"], self.call.check)
        self.tasks = load_tasks(self.call.locustfile, spec["url"]) if self.call.locustfile else None
        self.users = spec["users"] // spec["workers"]
        self.closed = spec["mode"] == "closed"
        self.ends = float("inf")
        self.connections = files_for(spec["most"])
        crew.most = self.connections
        self._crew = crew
        self._index = index
        self._backlog: deque[tuple[float, int]] = deque()
        random.seed(f"{spec['seed']}/{index}")  # Locust draws a user's tasks from it
        shard = Schedule.load(Path(spec["schedule"])).shard(index, spec["workers"])
        self._due = shard.due_s.tolist()
        self._bodies = shard.body.tolist()
        self._next = 0
        self._offered = 0

    def warm(self) -> None:
        """Open the connections of all users that this run needs."""
        warmed: list[Exception | None] = []
        everybody = Event()

        def connect(user: CellUser) -> None:
            try:
                user.turn_to(self)
                if self.tasks is None:
                    user.client.get(self.call.warm_path, headers=self.call.headers, name="warm")
                warmed.append(None)
            except Exception as error:  # in on_start of the user's file
                warmed.append(error)
            everybody.wait()  # who parked again would be given the next one's turn

        while len(self._crew) < self.users:
            gevent.sleep(0.002)
        self._crew.dismiss(self.spec["kept"], CellUser.depart)
        # Our own ingress takes them all at once.
        together = self.users if self.spec["cell_id"] else _WARM_TOGETHER
        while len(warmed) < self.users:
            begun = len(warmed)
            for _ in range(min(together, self.users - begun)):
                self._crew.give(connect)
            while len(warmed) < min(begun + together, self.users):
                gevent.sleep(0.002)
        everybody.set()
        for error in filter(None, warmed):
            raise BadInput(f"--locustfile: on_start failed: {error!r}")

    def run(self) -> dict[str, Any]:
        """Send the whole shard, wait for what is in flight, and leave the samples in a file."""
        cpu, delay = time.process_time(), _run_delay_s()
        started = time.perf_counter() + _LEAD_S
        self.ends = started + self.spec["duration_s"]
        timer = Timer()
        try:
            if self.closed:
                timer.wait_until(started)
                for _ in range(self.users):
                    self._crew.give(self._loop)
                timer.wait_until(self.ends)
            else:
                self._dispatch(timer, started)
        finally:
            timer.close()
        deadline = time.perf_counter() + self.spec["timeout_s"] + 1.0
        while len(self.tally) + len(self._backlog) < self._offered:
            if time.perf_counter() > deadline:
                break
            gevent.sleep(0.002)
        cpu_s, delay_s = time.process_time() - cpu, _run_delay_s() - delay
        for due, body in self._backlog:
            self.tally.add_unsent(due, body)
        self.tally.finish(started).save(Path(self.spec["folder"]) / f"samples-{self._index}.npz")
        return {
            "index": self._index,
            "checked": self.tally.checked,
            "wrong": self.tally.wrong,
            "cpu_s": cpu_s,
            "run_delay_s": delay_s,
            "connections": self.connections,
        }

    def _dispatch(self, timer: Timer, started: float) -> None:
        for offset, body in zip(self._due, self._bodies, strict=True):
            at = started + offset
            if at > time.perf_counter():
                timer.wait_until(at)
            self._offered += 1
            item = (at, body)
            if self._backlog or not self._crew.give(partial(self._follow, item)):
                self._backlog.append(item)

    def _follow(self, item: tuple[float, int], user: CellUser) -> None:
        """Send one due request, then whatever fell due while no user could be had."""
        user.send(self, *item)
        while self._backlog:
            due, body = self._backlog.popleft()
            if time.perf_counter() - due > self.spec["timeout_s"]:
                self.tally.add_unsent(due, body)
            else:
                user.send(self, due, body, waited=True)

    def _loop(self, user: CellUser) -> None:
        while (now := time.perf_counter()) < self.ends:
            self._offered += 1
            body = self._bodies[self._next % len(self._bodies)]
            self._next += 1
            user.send(self, now, body)


class CellUser(FastHttpUser):
    """One connection. Does the jobs that a run hands it, and parks in between."""

    host = "http://127.0.0.1"
    crew: Crew
    _spec: dict[str, Any] | None = None  # not the run, whose samples would live on with it
    _player: Player | None = None
    _arrival: Arrival

    def on_start(self) -> None:
        """Be counted."""
        self.crew.join()

    def on_stop(self) -> None:
        """Be counted no longer."""
        self.crew.leave()

    def turn_to(self, run: Drive) -> None:
        """Drop the old connection: one kept from another cell might reach its replica.

        Raises whatever ``on_start`` of a user's own file does.
        """
        spec = run.spec
        if self._spec is spec:
            return
        self.client.client.clientpool.close()
        self._arrival = Arrival()
        self.client = FastHttpSession(
            base_url=spec["url"],
            request_event=self.environment.events.request,
            user=self,
            insecure=spec["insecure"],
            client_pool=StampedPool(
                self._arrival,
                insecure=spec["insecure"],
                ssl_context_factory=partial(
                    _tls_context, spec["insecure"], (*(spec["identity"] or ()),)
                ),
                network_timeout=spec["timeout_s"],
                connection_timeout=spec["timeout_s"],
                concurrency=1,
            ),
            max_retries=0,
        )
        self._player = None if run.tasks is None else Player(run.tasks, self.environment)
        self._spec = spec

    def depart(self) -> None:
        """Close the connection, and do no more jobs."""
        self.client.client.clientpool.close()
        raise StopUser

    @task
    def work(self) -> None:
        """Wait for a job and do it."""
        self.crew.park()(self)

    def _perform(self, run: Drive) -> str | None:
        """Do a task of the user's own, as one who was started; the name of what failed, or None."""
        try:
            self.turn_to(run)
        except Exception as error:  # in on_start of the user's file
            return type(error).__name__
        return self._player.perform() if self._player else None

    def send(self, run: Drive, due: float, body: int, *, waited: bool = False) -> None:
        """Send one request of ``run``, or do a task of the user's own, and keep its sample."""
        if run.tasks is not None:
            sent = time.perf_counter()
            ticket = run.tally.begin(due, sent, body, waited=waited)
            failure = self._perform(run)
            done = time.perf_counter()
            good = run.call.check.statuses[0]
            made = Sample(due, sent, done, body, good, "", "", "", None, waited, failure)
            run.tally.add(made, ticket)
            return
        self.turn_to(run)
        headers = {"Accept-Encoding": "identity", **run.call.headers}
        if run.payloads.header_lengths[body]:
            headers[HEADER_LENGTH] = str(run.payloads.header_lengths[body])
        data = run.payloads.bodies[body]
        self._arrival.at = None
        sent = time.perf_counter()
        ticket = run.tally.begin(due, sent, body, waited=waited)
        response = self.client.request(
            run.call.method,
            run.call.path,
            data=data or None,  # type: ignore[arg-type] # bytes are what it sends
            headers=headers,
            name="infer",
            allow_redirects=False,
        )
        answer = response.content
        read = time.perf_counter()
        done = self._arrival.done(sent, read)
        got: Any = response.headers or {}
        run.tally.add(
            Sample(
                due,
                sent,
                done,
                body,
                response.status_code,
                got.get(CELL_HEADER, ""),
                got.get("server-timing", ""),
                got.get(HEADER_LENGTH, ""),
                answer,
                waited,
                read=read,
            ),
            ticket,
        )


def _run_delay_s() -> float:
    """Seconds that the thread of all greenlets wanted a CPU and had none; 0 where uncounted."""
    times = thread_times(os.getpid()).get(os.getpid())
    return times.waited_s if times else 0.0


@cache
def _tls_context(
    insecure: bool, identity: tuple[str, ...], cafile: str | None = None
) -> ssl.SSLContext:
    """One for all connections: reading the certificates takes longer than most requests.

    ``identity`` is a certificate's file and its key's, or one with both, or none.
    """
    if insecure:
        made = ssl._create_unverified_context(cafile=cafile)  # noqa: S323 - asked for: --insecure
    else:
        made = ssl.create_default_context(cafile=cafile)
    if identity:
        made.load_cert_chain(*identity)
    return made


def worker(port: int, index: int) -> None:
    """Join the master, then do runs until the connection ends."""
    if os.environ.get("TONNAGE_GENERATOR_PRIORITY") == "fifo":
        # Above the ingress, with which it may share a core: a late dispatch would be
        # counted against the server. It sleeps between events, so nobody starves.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    environment = Environment(user_classes=[CellUser], events=events)
    runner = environment.create_worker_runner("127.0.0.1", port)
    crew = Crew(lambda: CellUser(environment).start(runner.user_greenlets))
    CellUser.crew = crew
    runs: list[Drive] = []

    def on_spec(environment: Environment, msg: Any, **_: Any) -> None:
        runs.clear()
        if index < msg.data["workers"]:
            try:
                run = Drive(msg.data, index, crew)
                run.warm()
            except BadInput as error:
                runner.send_message("tonnage_refused", {"error": str(error)})
                return
            runs.append(run)
            runner.send_message("tonnage_warm", {"index": index})

    def on_go(environment: Environment, msg: Any, **_: Any) -> None:
        for run in runs:
            runner.send_message("tonnage_result", run.run())

    runner.register_message("tonnage_spec", on_spec, concurrent=True)
    runner.register_message("tonnage_go", on_go, concurrent=True)
    runner.greenlet.join()


def master(port: int) -> None:
    """Serve runs until stdin ends."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    head = Master(port, Environment(user_classes=[CellUser], events=events))
    stdin = FileObjectThread(0, "rb", closefd=False)
    spec: dict[str, Any] = {}
    for line in stdin:
        message = json.loads(line)
        try:
            reply: dict[str, Any] = {}
            if message["op"] == "connect":
                head.connect(message["workers"], message["users"])
            elif message["op"] == "prepare":
                spec = message["spec"]
                head.prepare(spec)
            else:
                reply = head.go(spec)
        except BadInput as error:
            reply = {"error": str(error), "kind": BadInput.__name__}
        except RuntimeError as error:
            reply = {"error": str(error)}
        print(json.dumps(reply), file=replies)


if __name__ == "__main__":
    if sys.argv[1] == "master":
        master(int(sys.argv[2]))
    else:
        worker(int(sys.argv[2]), int(sys.argv[3]))
