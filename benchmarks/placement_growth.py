"""How placement grows with the fleet: CPU seconds for the built-in fleet on ever more nodes.

python benchmarks/placement_growth.py
python benchmarks/placement_growth.py --nodes 1000,10000,100000 --json
"""

import json
import time

import click

from bpfleet.report.placing import place
from bpfleet.workload.scenario import builtin_scenario


@click.command()
@click.option("--scenario", default="mixed-fleet", show_default=True)
@click.option("--nodes", default="1000,2000,4000,10000,20000", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(scenario: str, nodes: str, as_json: bool) -> None:
    """Places the scenario at each size, and says what twice the nodes cost."""
    rows = []
    for count in map(int, nodes.split(",")):
        scaled = builtin_scenario(scenario).scaled_to(count)
        started = time.process_time()
        replicas = place(scaled).replicas
        seconds = time.process_time() - started
        rows.append({"nodes": count, "replicas": replicas, "cpu_seconds": round(seconds, 2)})
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    click.echo(f"{'nodes':>8} {'replicas':>9} {'CPU s':>7} {'us/replica':>11}")
    for row in rows:
        each = 1e6 * row["cpu_seconds"] / max(1, row["replicas"])
        click.echo(
            f"{row['nodes']:>8,} {row['replicas']:>9,} {row['cpu_seconds']:>7.2f} {each:>11.1f}"
        )


if __name__ == "__main__":
    main()
