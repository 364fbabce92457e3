"""``bpfleet compare``: the same fleet, the same operations, several accounting models."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource
from msgspec.structs import replace

from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.captures.collect import uses_bpf
from bpfleet.captures.listings import Listing
from bpfleet.cli.captured import NEW_FAILURES, CapturedOptions, compare_captures
from bpfleet.cli.inputs import (
    Limit,
    OutputFile,
    OutputFolder,
    Size,
    cpus_of_listings,
    default_jobs,
    kernels_option,
    read_listings,
    tell_kernels,
    with_inventories,
    with_limits,
)
from bpfleet.cli.kubernetes import FromKubectl, from_kubectl, print_seen
from bpfleet.cli.output import (
    console,
    print_json,
    print_sureness,
    print_table,
    say,
    write_file,
)
from bpfleet.progress import progress, waiting
from bpfleet.report.compare import DEFAULT_MODELS, Comparison, compare, merged, run_nodes
from bpfleet.report.findings import verdict
from bpfleet.report.limit_rows import LimitRow
from bpfleet.report.limits import advise_all
from bpfleet.report.models import OWN
from bpfleet.report.origin import origin_data
from bpfleet.report.page import to_html
from bpfleet.report.repeat import interval_cells, intervals_data, repeat
from bpfleet.report.results import NodeResult, as_plain
from bpfleet.report.resume import ResultFolder
from bpfleet.report.scenario_file import read_scenario
from bpfleet.report.sections import limits_of_workloads, study
from bpfleet.report.shards import Segments, make_plan, read_plan, shard_of, write_plan
from bpfleet.report.summary import (
    divergence_lines,
    rows_data,
    table_cells,
    table_lines,
    to_csv,
    to_markdown,
)
from bpfleet.report.upgrade import (
    ROLLOUT_NOTE,
    UpgradeLine,
    arrow,
    upgrade_data,
    upgrade_lines,
    upgrade_markdown,
    upgrade_verdict,
    with_rollouts,
)
from bpfleet.report.workers import workers
from bpfleet.workload.codec import to_data
from bpfleet.workload.quantity import counted, format_bytes
from bpfleet.workload.scenario import Scenario
from bpfleet.workload.spec import CPUS_MAX, NodeShape

__all__ = ["command"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUT = OutputFile()
_FOLDER = OutputFolder()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outputs:
    """Where results go. ``command`` and ``inputs`` are how to come to them again, ``assumed`` is what nobody said."""

    command: str
    inputs: tuple[Path, ...]
    assumed: tuple[str, ...]
    as_json: bool
    csv_file: Path | None
    markdown_file: Path | None
    report_file: Path | None


@click.command("compare")
@click.argument("captures", nargs=-1, type=_FILE, metavar="[CAPTURES]...")
@click.option(
    "--scenario",
    "scenario_name",
    default="mixed-fleet",
    show_default=True,
    help="Built-in name or TOML file.",
)
@kernels_option(
    f"[default: {','.join(DEFAULT_MODELS)}, with `own` before them where pools say their kernel]",
    note="; `own` is what the scenario's node pools have",
    also=(OWN,),
)
@click.option(
    "--from",
    "before",
    metavar="KERNEL",
    help="Kernel before the upgrade; needs --to [default: the pools' own, where they say it].",
)
@click.option("--to", "after", metavar="KERNEL", help="The kernel after the upgrade.")
@click.option(
    "--seed", type=click.IntRange(0, (1 << 63) - 1), help="Seed, instead of the scenario's."
)
@click.option(
    "--repetitions", default=1, show_default=True, help="Seeds to run, from --seed upwards."
)
@click.option(
    "--nodes", type=click.IntRange(1, 100_000), help="Scale the fleet to this many nodes."
)
@click.option(
    "--steps", type=click.IntRange(0, 1_000_000), help="Churn steps, instead of the scenario's."
)
@click.option(
    "--jobs", type=click.IntRange(1, 64), help="Worker processes; the result is the same."
)
@click.option("--agents", type=click.IntRange(1, 64), hidden=True)  # what --jobs was called
@click.option(
    "--inventory",
    "inventories",
    type=_FILE,
    multiple=True,
    help="Output of `bpftool -j map show`, or a JSON list of such files; repeatable.",
)
@click.option(
    "--from-kubectl",
    "kubectl",
    is_flag=True,
    help="The files are output of `kubectl get pods,nodes -A -o json`, not captures.",
)
@click.option(
    "--helm",
    multiple=True,
    metavar="CHART=FILE",
    help="With --from-kubectl: values of the cilium, falco or tetragon chart.",
)
@click.option(
    "--prometheus",
    type=_FILE,
    multiple=True,
    help="With --from-kubectl: JSON of a query for container_memory_* or cilium_bpf_map_pressure.",
)
@click.option("--memory-limit", type=Limit(), help="memory.max of each --inventory workload.")
@click.option(
    "--memlock",
    type=Size(),
    help="RLIMIT_MEMLOCK of each --inventory workload [default: unlimited, since its maps exist].",
)
@click.option(
    "--cpus",
    type=click.IntRange(1, CPUS_MAX),
    help="Possible CPUs of the --inventory host, or of captured hosts once they are replaced.",
)
@click.option("--ram", type=Size(), help="Memory of the --inventory or replaced host.")
@click.option(
    "--fill", metavar="PERCENT", help="With captures: fill maps to this share, such as 80%."
)
@click.option(
    "--replace",
    "replacements",
    multiple=True,
    metavar="CONTAINER=FILE|APP",
    help="With captures: replace a container's maps by another set; pinned maps stay.",
)
@click.option(
    "--no-grouping",
    is_flag=True,
    help="With captures: emulate each host, even if it is like another.",
)
@click.option(
    "--skip-bad", is_flag=True, help="With captures: leave out files that cannot be read."
)
@click.option(
    "--patches",
    type=_FOLDER,
    help="With captures: write limits as systemd, Kubernetes and Compose patches.",
)
@click.option(
    "--fail-on",
    type=click.Choice([NEW_FAILURES]),
    help="With captures: exit status 1 if something newly fails.",
)
@click.option(
    "--user-memory",
    type=Size(),
    default="64M",
    show_default=True,
    help="Heap of each --inventory workload.",
)
@click.option(
    "--uid",
    type=click.IntRange(0, (1 << 32) - 2),
    default=0,
    help="User of each --inventory workload.",
)
@click.option(
    "--limits",
    multiple=True,
    metavar="NAME=SIZE|FILE",
    help="memory.max of a workload, or a TOML file of lines WORKLOAD = SIZE.",
)
@click.option(
    "--resume",
    "folder",
    type=_FOLDER,
    help="Store per-node results here and resume an interrupted run.",
)
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Place everything and write the plan; with --shard or --merge, the plan to read.",
)
@click.option(
    "--shard", metavar="I/N", help="With --plan: run part I of N and write it below --out."
)
@click.option("--out", "segments_folder", type=OutputFolder(), help="Where shards are written.")
@click.option(
    "--merge",
    "merged_folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="With --plan: combine the shards in this directory.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print everything as JSON instead of the table."
)
@click.option("--csv", "csv_file", type=_OUT, help="Write one line per replica and model.")
@click.option("--markdown", "markdown_file", type=_OUT, help="Write a summary for a pull request.")
@click.option("--report", "report_file", type=_OUT, help="Write one self-contained HTML page.")
def command(
    *,
    captures: tuple[Path, ...],
    scenario_name: str,
    kernels: tuple[str, ...],
    before: str | None,
    after: str | None,
    seed: int | None,
    repetitions: int,
    nodes: int | None,
    steps: int | None,
    jobs: int | None,
    agents: int | None,
    inventories: tuple[Path, ...],
    kubectl: bool,
    helm: tuple[str, ...],
    prometheus: tuple[Path, ...],
    memory_limit: int | None,
    memlock: int | None,
    cpus: int | None,
    ram: int | None,
    fill: str | None,
    replacements: tuple[str, ...],
    no_grouping: bool,
    skip_bad: bool,
    patches: Path | None,
    fail_on: str | None,
    user_memory: int,
    uid: int,
    limits: tuple[str, ...],
    folder: Path | None,
    plan_file: Path | None,
    shard: str | None,
    segments_folder: Path | None,
    merged_folder: Path | None,
    as_json: bool,
    csv_file: Path | None,
    markdown_file: Path | None,
    report_file: Path | None,
) -> int:
    """Answers what another kernel does to captured hosts, or runs one scenario under several models side by side.

    With CAPTURES (files of bpfleet capture) and --to: per kind of container, what happens after the change, and the
    limit to set; every host is first emulated under its own kernel and compared with what the capture saw.

    \b
    Examples:
      bpfleet compare captures/*.json --to 6.12 --report answer.html
      bpfleet compare
      bpfleet compare --kernel 5.10,6.1,6.12 --nodes 100 --seed 7
      bpfleet compare --inventory host.json --memory-limit 512M
      bpfleet compare --from-kubectl cluster.json --to 6.12 --helm cilium=values.yaml
      bpfleet compare --report report.html --markdown summary.md
      bpfleet compare --from 5.10 --to 6.1 --limits falco=512M
      bpfleet compare --repetitions 10
      bpfleet compare --nodes 10000 --kernel 5.10,6.12 --plan run.json
      bpfleet compare --plan run.json --shard 1/16 --out parts
      bpfleet compare --plan run.json --merge parts --report r.html
    """
    if kubectl and not captures:
        raise click.UsageError(
            "--from-kubectl needs the files of kubectl get pods,nodes -A -o json"
        )
    if (helm or prometheus) and not kubectl:
        raise click.UsageError("--helm and --prometheus go with --from-kubectl")
    if captures and not kubectl:
        _refuse_scenario_options(click.get_current_context(), _SCENARIO_OPTIONS, "captures")
        if patches and kernels:
            raise click.UsageError("--patches goes with --to: a limit is set for one kernel")
        return compare_captures(
            captures,
            CapturedOptions(
                after=_targets(after, kernels),
                before=before,
                cpus=cpus,
                ram=ram,
                fill=_share(fill),
                replacements=replacements,
                grouping=not no_grouping,
                skip_bad=skip_bad,
                as_json=as_json,
                csv_file=csv_file,
                markdown_file=markdown_file,
                report_file=report_file,
                patches=patches,
                fail_on=fail_on,
                command=_command_line(click.get_current_context()),
            ),
        )
    if fill or replacements or no_grouping or skip_bad or patches or fail_on:
        raise click.UsageError("--fill, --replace, --patches and --fail-on go with captures")
    if shard is not None or merged_folder is not None:
        return _part_of_plan(
            plan_file,
            shard,
            segments_folder,
            merged_folder,
            jobs or agents or default_jobs(),
            _Outputs(
                command=_command_line(click.get_current_context()),
                inputs=_inputs(click.get_current_context()),
                assumed=(),
                as_json=as_json,
                csv_file=csv_file,
                markdown_file=markdown_file,
                report_file=report_file,
            ),
        )
    if segments_folder is not None:
        raise click.UsageError("--out goes with --plan and --shard")
    _offer_this_host(click.get_current_context())
    cluster = from_kubectl(captures, helm, prometheus) if kubectl else None
    scenario = read_scenario(scenario_name) if cluster is None else cluster.scenario
    assumed: tuple[str, ...] = ()
    if inventories:
        listings = read_listings(inventories)
        scenario = with_inventories(
            scenario,
            [listing.inventory for listing in listings],
            memory_limit_bytes=memory_limit,
            memlock_bytes=RLIM_INFINITY if memlock is None else memlock,
            user_memory_bytes=user_memory,
            uid=uid,
            shape=_host_shape(listings, cpus, ram, before),
        )
        assumed = _assumptions(memlock, memory_limit, user_memory)
        click.echo(f"assumed: {', '.join(assumed)}", err=True)
    scenario = with_limits(scenario, limits)
    scenario = _changed(scenario, seed=seed, nodes=nodes, steps=steps)
    outputs = _Outputs(
        command=_command_line(click.get_current_context()),
        inputs=_inputs(click.get_current_context()),
        assumed=assumed,
        as_json=as_json,
        csv_file=csv_file,
        markdown_file=markdown_file,
        report_file=report_file,
    )
    processes = jobs or agents or default_jobs()
    if plan_file is not None and (before or after or repetitions > 1 or folder):
        raise click.UsageError("--plan goes with --kernel, for one seed, without --resume")
    if before is not None or after is not None:
        if repetitions > 1:
            raise click.UsageError("--repetitions goes with --kernel, not with --from and --to")
        result = _upgrade(scenario, before, after, kernels, processes, folder, outputs)
        if cluster is not None and not as_json:
            print_seen(cluster, result)
        return 0
    names = list(kernels or _default_models(scenario))
    if plan_file is not None:
        return _write_plan(scenario, names, plan_file)
    results = repeat(
        scenario, repetitions, lambda one: _run(one, names, processes, _folder(folder, one))
    )
    _answer(scenario, results, processes, outputs, cluster)
    return 0


def _write_plan(scenario: Scenario, models: Sequence[str], path: Path) -> int:
    with waiting("placing"):
        plan = make_plan(scenario, models)
    write_plan(plan, path)
    nodes = counted(len(plan.placement.nodes), "node")
    click.echo(
        f"{path}: {nodes}, {counted(plan.placement.replicas, 'replica')}, under {', '.join(models)}; next, anywhere:"
        f" bpfleet compare --plan {path} --shard I/N --out DIR",
    )
    return 0


def _part_of_plan(
    path: Path | None,
    shard: str | None,
    segments: Path | None,
    merged_folder: Path | None,
    jobs: int,
    outputs: _Outputs,
) -> int:
    """Runs one shard of a plan, or puts all of them together."""
    settled = _SCENARIO_OPTIONS - {"jobs", "agents"} | {"kernels", "before", "after", "captures"}
    _refuse_scenario_options(click.get_current_context(), settled, "a plan")
    if path is None or (shard is None) is (merged_folder is None):
        raise click.UsageError("give --plan with --shard and --out, or --plan with --merge")
    plan = read_plan(path)
    if merged_folder is not None:
        found = Segments(merged_folder, plan)
        result = merged(plan.scenario, plan.models, plan.placement, found.read())
        _answer(plan.scenario, [result], jobs, outputs, None)
        return 0
    if segments is None:
        raise click.UsageError("--shard needs --out, the directory for its results")
    number, count = shard_of(shard or "")
    kept = Segments(segments, plan)
    if kept.is_done(number, count):
        click.echo(f"{kept.path(number, count)}: is there and verifies; nothing to do")
        return 0
    nodes = kept.nodes(number, count)
    with progress("nodes", len(nodes)) as advance:
        results = run_nodes(
            plan.scenario, plan.models, nodes, jobs=jobs, on_node=lambda _: advance()
        )
    kept.write(number, count, results)
    click.echo(f"{kept.path(number, count)}: {counted(len(nodes), 'node')}")
    return 0


def _answer(
    scenario: Scenario,
    results: Sequence[Comparison],
    processes: int,
    outputs: _Outputs,
    cluster: FromKubectl | None,
) -> None:
    """Prints the comparison and writes its files."""
    limits_found: list[LimitRow] = []
    if outputs.as_json or outputs.markdown_file is not None:
        with waiting("limits"):
            limits_found = limits_of_workloads(scenario, results[0], jobs=processes)
    if outputs.as_json:
        data = {
            "verdict": verdict(results[0]),
            "rows": rows_data(results[0]),
            "limits": to_data(limits_found),
            **as_plain(results[0]),
        }
        print_json({**data, "repetitions": intervals_data(results)} if len(results) > 1 else data)
    else:
        _print(results)
        if cluster is not None:
            print_seen(cluster, results[0])
        print_sureness(results[0].kernels)
    _write_files(scenario, results, processes, outputs, limits=limits_found)


def _offer_this_host(context: click.Context) -> None:
    """One line for who asks about the built-in fleet on a host where BPF is in use."""
    given = any(
        context.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in context.params
    )
    if not given and console(stderr=True).is_terminal and uses_bpf():
        click.echo(
            "BPF is in use here: bpfleet capture -o here.json && bpfleet compare here.json --to 6.12"
            " answers for this host",
            err=True,
        )


def _refuse_scenario_options(context: click.Context, options: frozenset[str], what: str) -> None:
    """Options that would change nothing about captured hosts, or about a plan, are not taken in silence."""
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name in options:
            raise click.UsageError(f"{parameter.opts[0]} is for scenarios, not for {what}")


def _targets(after: str | None, kernels: tuple[str, ...]) -> tuple[str, ...]:
    """The kernels asked about: that of --to, or several of --kernel."""
    if (after is None) == (not kernels):
        raise click.UsageError("captures need --to, the kernel after the change, or --kernel")
    return (after,) if after is not None else kernels


def _share(text: str | None) -> float | None:
    """A share of a map's entries: ``80%`` or ``80``."""
    if text is None:
        return None
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise click.BadParameter(f"{text!r}: use 0% to 100%", param_hint="--fill")
    return share


_RAM_MIN_BYTES: Final = 64 << 30


def _host_shape(
    listings: Sequence[Listing], cpus: int | None, ram: int | None, kernel: str | None
) -> NodeShape | None:
    """The host of a listing as options or its values tell it; None for the scenario's own nodes."""
    cpus = cpus_of_listings(listings, cpus, kernel=kernel)
    if cpus is None and ram is None:
        return None
    held = sum(each.memlock_bytes or 0 for listing in listings for each in listing.seen)
    if ram is None:
        ram = max(_RAM_MIN_BYTES, 1 << (2 * held).bit_length())
        click.echo(f"assumed: {format_bytes(ram)} of memory a host (--ram)", err=True)
    if cpus is None:
        cpus = _CPUS_DEFAULT
        click.echo(f"assumed: {cpus} CPUs a host (--cpus)", err=True)
    return NodeShape(possible_cpus=cpus, ram_bytes=ram)


def _assumptions(
    memlock: int | None, memory_limit: int | None, user_memory: int
) -> tuple[str, ...]:
    """What a listing does not tell, and which option sets it."""
    assumed = [f"heap {format_bytes(user_memory)} (--user-memory)"]
    if memlock is None:
        assumed.append("RLIMIT_MEMLOCK unlimited (--memlock)")
    if memory_limit is None:
        assumed.append("memory.max unlimited (--memory-limit)")
    return tuple(assumed)


_CPUS_DEFAULT: Final = 16
_SCENARIO_OPTIONS: Final = frozenset(
    {
        "scenario_name", "seed", "repetitions", "nodes", "steps", "jobs", "agents", "inventories", "memory_limit",
        "memlock", "user_memory", "uid", "limits", "folder",
    }
)  # fmt: skip
_OUTPUT_OPTIONS: Final = frozenset(
    {
        "patches",
        "fail_on",
        "as_json",
        "csv_file",
        "markdown_file",
        "report_file",
        "folder",
        "jobs",
        "agents",
    }
)


def _command_line(context: click.Context) -> str:
    """The command line to reproduce the result, output options left out."""
    words = ["bpfleet", "compare"]
    for option in context.command.params:
        name = str(option.name)
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name not in _OUTPUT_OPTIONS:
            value = context.params[name]
            if name == "kernels":
                value = ",".join(value)
            named = isinstance(option, click.Option)
            for each in value if isinstance(value, tuple) else (value,):
                words += [option.opts[0], str(each)] if named else [str(each)]
    return shlex.join(words)


def _inputs(context: click.Context) -> tuple[Path, ...]:
    """The files that the command line names, in its order: as they are, or behind NAME=."""
    found: dict[Path, None] = {}
    for option in context.command.params:
        if str(option.name) in _OUTPUT_OPTIONS:
            continue
        value = context.params[str(option.name)]
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, str | Path):
                named = (Path(each), Path(str(each).partition("=")[2]))
                found.update((path, None) for path in named if path.is_file())
    return tuple(found)


def _default_models(scenario: Scenario) -> tuple[str, ...]:
    """The kernels that the node pools have, where they say it, then the usual ones."""
    has_own = all(pool.kernel for pool in scenario.nodes)
    return (OWN, *DEFAULT_MODELS) if has_own else DEFAULT_MODELS


def _folder(folder: Path | None, scenario: Scenario) -> Path | None:
    """Every seed keeps its own results."""
    return None if folder is None else folder / f"seed-{scenario.seed}"


def _changed(
    scenario: Scenario, *, seed: int | None, nodes: int | None, steps: int | None
) -> Scenario:
    if nodes is not None:
        scenario = scenario.scaled_to(nodes)
    if seed is not None:
        scenario = replace(scenario, seed=seed)
    return scenario if steps is None else replace(scenario, steps=steps)


def _run(scenario: Scenario, models: list[str], jobs: int, folder: Path | None) -> Comparison:
    kept = None if folder is None else ResultFolder(folder, scenario, models)
    nodes, done = sum(group.count for group in scenario.nodes), 0
    with progress("nodes", nodes) as advance:

        def one_more(result: NodeResult) -> None:
            nonlocal done
            done += 1
            advance()

        try:
            return compare(scenario, models, jobs=jobs, on_node=one_more, kept=kept)
        except KeyboardInterrupt:
            if done:
                click.echo(f"{done:,} of {nodes:,} nodes {_whereabouts(folder)}", err=True)
            raise


def _whereabouts(folder: Path | None) -> str:
    """Where results are when a run was ended, and how they are not lost."""
    if folder is None:
        return "were done; with --resume FOLDER they are kept and the same command goes on"
    return f"are kept in {folder}; the same command goes on"


def _write_files(
    scenario: Scenario,
    results: Sequence[Comparison],
    jobs: int,
    outputs: _Outputs,
    *,
    upgrade: dict[str, Any] | None = None,  # JSON values
    preface: str = "",
    limits: Sequence[LimitRow] = (),
) -> None:
    """Page and Markdown describe the first seed, with intervals where there are more; CSV has every seed."""
    result = results[0]
    if outputs.csv_file is not None:
        write_file(outputs.csv_file, to_csv(results))
    if outputs.markdown_file is not None:
        cells = interval_cells(results) if len(results) > 1 else None
        write_file(outputs.markdown_file, preface + to_markdown(result, cells, limits))
    if outputs.report_file is None:
        return
    with waiting("limits and CPU counts"):
        extra = study(scenario, result, jobs=jobs)
    extra["origin"] = origin_data(
        outputs.command,
        outputs.inputs,
        assumed=outputs.assumed,
        now=datetime.now().astimezone(),
    )
    if len(results) > 1:
        extra["repetitions"] = intervals_data(results)
    if upgrade is not None:
        extra["upgrade"] = upgrade
    write_file(outputs.report_file, to_html(result, extra=extra))


def _print(results: Sequence[Comparison]) -> None:
    out, result = console(), results[0]
    out.print(result.title or result.scenario, style="bold", markup=False)
    say(verdict(result))
    out.print()
    cells = table_cells(result) if len(results) == 1 else interval_cells(results)
    print_table(
        ("", *result.models, "what is counted"),
        table_lines(result, cells),
        texts=("what is counted",),
        notes="what is counted",
    )
    out.print()
    _print_divergences(result)
    for replica, reason in result.unplaced:
        say(f"not placed: {replica}: {reason}")
    out.print()
    seeds = (
        f"seed {result.seed}" if len(results) == 1 else f"seeds {result.seed} to {results[-1].seed}"
    )
    out.print(
        f"{seeds}, {result.steps} steps of {result.step_ns / 1e9:g} s, "
        f"profiles {', '.join(result.models)}, bpfleet {result.version}",
        markup=False,
    )


def _print_divergences(result: Comparison) -> None:
    out = console()
    if result.first_divergence is None:
        if len(result.models) > 1:
            out.print("The models answered every call alike.")
        return
    out.print("First divergence", style="bold")
    for line in divergence_lines(result.first_divergence):
        say(line)
    out.print()
    out.print("Divergences by cause", style="bold")
    for cause in result.causes:
        where = f"{counted(cause.count, 'replica')} on {counted(cause.nodes, 'node')}"
        say(f"  {where} ({', '.join(cause.workloads)}): {cause.cause}")


# -- the upgrade question


def _upgrade(
    scenario: Scenario,
    before: str | None,
    after: str | None,
    kernels: tuple[str, ...],
    jobs: int,
    folder: Path | None,
    outputs: _Outputs,
) -> Comparison:
    if before is None and all(pool.kernel for pool in scenario.nodes):
        before = OWN
    if before is None or after is None or kernels:
        raise click.UsageError("--from and --to go together and replace --kernel")
    tell_kernels((before, after))
    scenario = with_rollouts(scenario)
    result = _run(scenario, [before, after], jobs, _folder(folder, scenario))
    with waiting("limits"), workers(jobs) as each:
        advice = advise_all(scenario, after, each) if result.totals[1].kind == "memcg" else []
    lines = upgrade_lines(result, before, after, advice)
    answer = upgrade_data(result, lines)
    if outputs.as_json:
        print_json(answer)
    else:
        _print_upgrade(result, lines, before, after)
    _write_files(
        scenario,
        [result],
        jobs,
        outputs,
        upgrade=answer,
        preface=upgrade_markdown(result, lines) + "\n",
    )
    return result


def _print_upgrade(
    result: Comparison, lines: Sequence[UpgradeLine], before: str, after: str
) -> None:
    out = console()
    out.print(
        f"From {before} to {after}: {result.title or result.scenario}", style="bold", markup=False
    )
    say(upgrade_verdict(result, before, after))
    out.print(ROLLOUT_NOTE, markup=False, style="dim")
    out.print()
    print_table(
        ("workload", "pool", "replicas", "change", "before", "after", "first start", "restart",
         "memory.max", "raise to"),
        (_upgrade_row(line) for line in lines),
        numbers_from=2,
        texts=("change", "before", "after", "first start", "restart"),
        keys=2,
    )  # fmt: skip
    out.print()
    out.print(
        f"seed {result.seed}, one rolling restart of every workload, bpfleet {result.version}",
        markup=False,
    )
    print_sureness(result.kernels)


def _upgrade_row(line: UpgradeLine) -> tuple[str, ...]:
    return (
        line.workload,
        line.group,
        str(line.replicas),
        line.change.value,
        line.before.value,
        line.after.value,
        arrow(line.first_start),
        arrow(line.restart),
        "max" if line.limit_bytes is None else format_bytes(line.limit_bytes),
        "" if line.raise_to_bytes is None else format_bytes(line.raise_to_bytes),
    )
