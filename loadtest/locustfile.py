"""BPF map churn against a fleet of emulated nodes, over real gRPC.

    locust -f loadtest/locustfile.py                       # web page on port 8089
    locust -f loadtest/locustfile.py --headless -u 20 -r 10 -t 30s --bpfleet-agents 127.0.0.1:7071
    locust -f loadtest/locustfile.py --headless -u 200 -t 2m --load-shape ramp --tags tenant
    locust -f loadtest/locustfile.py --headless -u 20 -t 1m --outcomes out.json --fail-if 6.12:ENOMEM>0.5

Every option has an environment variable: locust -f loadtest/locustfile.py --help
"""

import sys
from pathlib import Path

# Locust patches the standard library when it is imported; gRPC has to be told before it is used.
import locust
from grpc.experimental import gevent as grpc_gevent

grpc_gevent.init_gevent()
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from loadtest.hooks import early_settings, register  # noqa: E402
from loadtest.options import STEP_TO_FAILURE  # noqa: E402
from loadtest.users import (  # noqa: E402, F401
    BatchUser,
    ElementUser,
    FleetUser,
    InventoryUser,
    RollingRestartUser,
    TenantUser,
)

_SHAPE = early_settings(sys.argv[1:])
register(locust.events)
if _SHAPE == STEP_TO_FAILURE:
    from loadtest.locust_shapes import StepToFailureShape  # noqa: F401
elif _SHAPE:
    from loadtest.locust_shapes import NamedShape  # noqa: F401
