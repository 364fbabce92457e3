"""The alert rules, played by promtool: each fires when it should, and not before."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from bpfleet.coordinator.metrics import CoordinatorMetrics
from bpfleet.node_agent.agent import Agent
from bpfleet.node_agent.metrics import AgentMetrics
from bpfleet.node_agent.replicas import Replicas

RULES = Path(__file__).resolve().parents[2] / "deploy" / "alerts.yml"
LEADING = "bpfleet_coordinator_leading"
EPOCH = "bpfleet_coordinator_epoch"
LATE = "bpfleet_coordinator_lead_renewals_late"
# Series, when to look, and whether the alert fires then: once where all is well, once where it is not.
PLAYS = {
    "BpfleetNobodyLeads": [
        ({LEADING + '{instance="a"}': "0x20", LEADING + '{instance="b"}': "0x20"}, "10m", True),
        ({LEADING + '{instance="a"}': "1x20", LEADING + '{instance="b"}': "0x20"}, "10m", False),
    ],
    "BpfleetLeadershipChangesOften": [
        # Two that depose each other between two scrapes: who leads looks as if nothing had happened.
        ({EPOCH + '{instance="a"}': "8+4x40", EPOCH + '{instance="b"}': "9+4x40"}, "30m", True),
        ({EPOCH + '{instance="a"}': "8 9x40", EPOCH + '{instance="b"}': "3x40"}, "30m", False),
    ],
    "BpfleetLeadRenewedLate": [
        ({LATE + '{instance="a"}': "0+1x40"}, "30m", True),
        ({LATE + '{instance="a"}': "7x40"}, "30m", False),
    ],
    "BpfleetSeveralLead": [
        ({LEADING + '{instance="a"}': "1x20", LEADING + '{instance="b"}': "1x20"}, "5m", True),
        ({LEADING + '{instance="a"}': "1x20"}, "5m", False),
    ],
    "BpfleetNodesNotReady": [
        ({'bpfleet_coordinator_nodes{state="not_ready"}': "3x20"}, "10m", True),
        ({'bpfleet_coordinator_nodes{state="not_ready"}': "3 0x20"}, "10m", False),
    ],
    "BpfleetWorkloadsWait": [
        ({"bpfleet_coordinator_waiting_workloads": "1x40"}, "30m", True),
        ({"bpfleet_coordinator_waiting_workloads": "1x40"}, "10m", False),
    ],
    "BpfleetStoreSlow": [
        (
            {
                'bpfleet_coordinator_commit_seconds_bucket{le="0.5"}': "0x20",
                'bpfleet_coordinator_commit_seconds_bucket{le="2.5"}': "0+60x20",
                'bpfleet_coordinator_commit_seconds_bucket{le="+Inf"}': "0+60x20",
            },
            "15m",
            True,
        ),
        (
            {
                'bpfleet_coordinator_commit_seconds_bucket{le="0.01"}': "0+60x20",
                'bpfleet_coordinator_commit_seconds_bucket{le="+Inf"}': "0+60x20",
            },
            "15m",
            False,
        ),
    ],
    "BpfleetCallsRefused": [
        ({'grpc_server_handled_total{grpc_code="UNAVAILABLE",grpc_method="M"}': "0+120x20"}, "15m", True),
        ({'grpc_server_handled_total{grpc_code="NOT_FOUND",grpc_method="M"}': "0+120x20"}, "15m", False),
    ],
    "BpfleetNodeCrashed": [
        ({'bpfleet_nodes{phase="crashed",instance="a"}': "0 1x20"}, "5m", True),
        ({'bpfleet_nodes{phase="running",instance="a"}': "5x20"}, "5m", False),
    ],
}  # fmt: skip

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="no promtool to play the alerts with (Debian: prometheus)",
)


def _rules() -> list[dict]:
    return [r for group in yaml.safe_load(RULES.read_text())["groups"] for r in group["rules"]]


def test_every_alert_is_played() -> None:
    assert set(PLAYS) == {rule["alert"] for rule in _rules()}


@needs_promtool
@pytest.mark.parametrize("alert", PLAYS)
def test_it_fires_when_it_should_and_only_then(alert, tmp_path) -> None:
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": s, "values": v} for s, v in series.items()],
            # That it fires is asked of the series which Prometheus itself keeps of alerts: labels do not matter then.
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) > bool 0 or vector(0)',
                    "eval_time": when,
                    "exp_samples": [{"labels": "{}", "value": int(fires)}],
                }
            ],
        }
        for series, when, fires in PLAYS[alert]
    ]
    play = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}
    path = tmp_path / "play.yml"
    path.write_text(yaml.safe_dump(play))
    done = subprocess.run(
        ["promtool", "test", "rules", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_alerts_ask_for_metrics_that_there_are() -> None:
    agent = Agent("a1", call_ns=1)
    of_agents = CollectorRegistry()
    of_agents.register(AgentMetrics(agent, Replicas(agent, churn_share=0.5)))
    told = generate_latest(CoordinatorMetrics().registry) + generate_latest(of_agents)
    known = set(re.findall(r"^# TYPE (\S+)", told.decode(), re.MULTILINE))
    for rule in _rules():
        for name in re.findall(r"\b(?:bpfleet|grpc)_[a-z_]+(?=[{\[)\s])", rule["expr"]):
            if name in ("grpc_method", "grpc_code"):
                continue
            assert name.removesuffix("_bucket") in known or name in known, name
