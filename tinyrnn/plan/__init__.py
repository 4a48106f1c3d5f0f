"""From the tape of one step to a program: recorded, rewritten, lowered, run. See the modules in that order."""
from weakref import WeakKeyDictionary
from tinyrnn.plan.record import record
from tinyrnn.plan.run import Plan
from tinyrnn.plan.threads import get_num_threads, set_num_threads

_plans = WeakKeyDictionary()

def plan_of(cell, widths):
    if cell not in _plans:
        step, params = record(cell, widths)
        _plans[cell] = (Plan(step), params)
    return _plans[cell]
