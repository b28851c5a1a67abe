"""Hubs of a fleet on a model engine: what users get equals what the engine counted.

Connections to the engine advance step by step and are cut anywhere; the engine restarts with old
counts, forgets scripts and keys; users move from hub to hub.
"""

from __future__ import annotations

from itertools import count

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from protocol.fleet.model import ModelEngine, ModelHub, User, settle

CHANNELS = ("a", "b")
hubs = st.integers(0, 2)
users = st.integers(0, 3)
channels = st.sampled_from(CHANNELS)


class FleetMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.engine = ModelEngine()
        self.hubs = [ModelHub(self.engine, number) for number in range(3)]
        for hub in self.hubs:
            hub.connect()
        settle(self.hubs, [])
        self.users = [User(self.hubs[number % 3]) for number in range(4)]
        self._numbers = count()
        self._replids = count(1)

    @rule(user=users, channel=channels, many=st.integers(1, 3))
    def publish(self, user: int, channel: str, many: int) -> None:
        self.users[user].publish(channel, *[b"%d" % next(self._numbers) for _ in range(many)])

    @rule(user=users, channel=channels)
    def subscribe(self, user: int, channel: str) -> None:
        self.users[user].subscribe(channel)

    @rule(user=users, channel=channels)
    def unsubscribe(self, user: int, channel: str) -> None:
        self.users[user].unsubscribe(channel)

    @rule(user=users)
    def pump(self, user: int) -> None:
        self.users[user].pump()

    @rule(hub=hubs, steps=st.integers(1, 4))
    def step_up(self, hub: int, steps: int) -> None:
        self.hubs[hub].flush()
        for _ in range(steps):
            if self.hubs[hub].connection.is_up:
                self.hubs[hub].connection.step_up()

    @rule(hub=hubs, steps=st.integers(1, 6))
    def step_down(self, hub: int, steps: int) -> None:
        for _ in range(steps):
            self.hubs[hub].step_down()

    @rule()
    def let_all_happen(self) -> None:
        settle(self.hubs, self.users)

    @rule(hub=hubs, sent=st.integers(0, 3))
    def cut(self, hub: int, sent: int) -> None:
        self.hubs[hub].cut(sent)

    @rule(hub=hubs, user=users, channel=channels, many=st.integers(1, 3))
    def be_deaf_for_a_while(self, hub: int, user: int, channel: str, many: int) -> None:
        """Lose a connection while somebody at another hub publishes."""
        settle(self.hubs, self.users)
        self.hubs[hub].cut(0)
        self.publish(user, channel, many)
        settle(self.hubs, self.users)
        self.hubs[hub].connect()

    @rule(hub=hubs)
    def connect(self, hub: int) -> None:
        self.hubs[hub].connect()

    @rule(user=users, hub=hubs)
    def move(self, user: int, hub: int) -> None:
        self.users[user].move(self.hubs[hub])

    @rule(replies_first=st.booleans())
    def order(self, replies_first: bool) -> None:
        self.engine.replies_first = replies_first

    @rule()
    def forget_scripts(self) -> None:
        self.engine.scripts.clear()

    @rule(channel=channels, happens=st.sampled_from([False] * 9 + [True]))
    def delete_key(self, channel: str, happens: bool) -> None:
        if happens:
            self.engine.delete(channel)

    @rule(forgotten=st.integers(0, 3), happens=st.sampled_from([False] * 9 + [True]))
    def fail_over(self, forgotten: int, happens: bool) -> None:
        """A replica that is behind, or a copy on disk, goes on: the last counts are lost."""
        if not happens:
            return
        for hub in self.hubs:
            hub.cut(0)
        self.engine.fail_over(f"replid-{next(self._replids)}", forgotten)

    @rule(hub=hubs)
    def refresh(self, hub: int) -> None:
        self.hubs[hub].fleet.refresh()

    @rule(hub=hubs)
    def let_time_pass(self, hub: int) -> None:
        self.hubs[hub].tick(5.0)

    def teardown(self) -> None:
        for hub in self.hubs:
            hub.connect()
        settle(self.hubs, self.users)
        for hub in self.hubs:
            hub.fleet.refresh()
        settle(self.hubs, self.users)
        for user in self.users:
            assert user.client.unanswered == 0
            for channel in user.accounts:
                self.check(user, channel)
        for hub in self.hubs:
            assert hub.fleet.pending == 0

    def check(self, user: User, channel: str) -> None:
        account = user.accounts[channel]
        log = self.engine.log[channel]
        # One order, no duplicates.
        places = [log.index(data) for data in account.received]
        assert places == sorted(set(places))
        position = user.client.position(channel)
        assert position is not None
        assert position == self.engine.position(channel)
        if not account.is_unknown:
            start = self.engine.index[channel, account.start]
            stop = self.engine.index[channel, position]
            assert all(start <= place < stop for place in places)
            assert len(places) + account.missed == stop - start


TestFleet = FleetMachine.TestCase
TestFleet.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None, database=None
)
