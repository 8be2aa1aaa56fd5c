"""Has what comes changed? One value per study and stream, tests with a stated false-alarm rate, and the cause in words.

`streams` names what is watched, `measure` takes it from a reading, `reference` says what is usual, `martingale` bets
against it, `change_point` and `cause` say since when and for whom, `monitor` holds the state of all that, `store` keeps
it, `watch` is what the worker calls.
"""

from typing import Literal

Outcome = Literal["watch", "baseline", "rest"]  # what follows once an alarm is acknowledged
