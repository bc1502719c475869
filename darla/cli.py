"""The command line: `darla run`, its three stages one by one, and what helps around them.

Every package is imported inside the command that needs it, so that `darla --help` answers at once.
Answers go to stdout, progress and errors to stderr.

Exit status: 0; 1, a defect; 2, an error that the user can mend, in one line; 130, interrupted.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from darla import pipeline
from darla.errors import ConfigError, DarlaError, DependencyError, did_you_mean

if TYPE_CHECKING:
    from rich.table import Table

    from agents.cells import Cell
    from darla.config import Config
    from darla.rundir import RunDirectory
    from envs.domains import Suite

PNG = b"\x89PNG\r\n\x1a\n"

ConfigWord = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG", help="A YAML file, or the name of one in configs/.", show_default=False
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings that replace those of the file.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
Protocol = Annotated[
    str | None,
    typer.Option(
        metavar="SUITE",
        help="The targets of another suite with the same D_U and D_S.",
        show_default=False,
    ),
]
Fresh = Annotated[
    str | None,
    typer.Option(
        metavar="TAG",
        help="Score on targets of the protocol that are drawn by a release tag and a salt.",
        show_default=False,
    ),
]
SaltFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Holds the salt of --fresh.", show_default=False),
]
Unfinished = Annotated[
    bool,
    typer.Option(
        "--allow-unfinished",
        help="Score cells that are not trained to their end by their last checkpoint, and mark "
        "them.",
    ),
]
Grid = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=[A,B]",
        help="Values of a setting; may be repeated, for all combinations.",
        show_default=False,
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option(
        metavar="[0,1]",
        help="Seeds of whole repetitions: of frames, vision and policies together.",
        show_default=False,
    ),
]
TrialCpus = Annotated[
    float, typer.Option(min=0.0, help="CPUs that a trial reserves beside those of its workers.")
]
TrialGpus = Annotated[
    float, typer.Option(min=0.0, help="GPUs that a trial reserves; with 0 it sees none.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

app = typer.Typer(
    help=(
        "Learn to see, learn to act, transfer zero-shot.\n\n"
        "A run has three stages: pretrain (vision, on frames of D_U), train (a policy, in D_S) "
        "and transfer (scores in D_T, which the policy never saw). `darla run` does all three; "
        "the same command again continues where it stopped."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config_app = typer.Typer(
    help="Shows the values of a configuration, or every key.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(config_app, name="config")


def main() -> None:
    """Runs the command line and exits with its status."""
    app()


def _command(parent: typer.Typer, name: str, example: str) -> Callable[[Callable[..., None]], Any]:
    """Registers a command with an example in its help, `--debug`, and errors of one line."""

    def register(body: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(body, eval_str=True)
        debug = inspect.Parameter(
            "debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug
        )

        @functools.wraps(body)
        def command(*, debug: bool, **given: Any) -> None:
            status = _guarded(functools.partial(body, **given), debug)
            if status:
                raise typer.Exit(status)

        parameters = [*signature.parameters.values(), debug]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        parent.command(name, epilog=f"Example: {example}")(command)
        return body

    return register


def _guarded(work: Callable[[], None], debug: bool) -> int:
    """Runs a command's body and returns the exit status; errors are said in one line on stderr."""
    try:
        work()
    except DarlaError as error:
        if debug:
            traceback.print_exc()
        print(f"darla: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "darla: interrupted; repeat the command to continue where it stopped", file=sys.stderr
        )
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        text = " ".join(str(error).split())
        hint = "" if debug else ": run again with --debug"
        print(f"darla: {type(error).__name__}: {text}; this is a defect{hint}", file=sys.stderr)
        return 1
    return 0


# -- the three stages ------------------------------------------------------------------------------


@_command(app, "run", "darla run lab-quick agents.seeds=[0,1] name=two-seeds")
def run_command(
    config: ConfigWord, overrides: Overrides = None, as_json: Json = False, quiet: Quiet = False
) -> None:
    """Runs the three stages and writes the report.

    What is finished is not repeated, what was interrupted continues. At the end it prints the
    table of scores; all results lie in RUNS/NAME/.
    """
    tree = pipeline.load(config, overrides)
    _answer(pipeline.run_stages(tree, quiet), as_json)
    pipeline.say(quiet, f"report: {Path(tree.runs) / tree.name / 'report.html'}")


@_command(app, "pretrain", "darla pretrain lab-quick vision.vae.beta=2 name=beta-2")
def pretrain_command(
    config: ConfigWord, overrides: Overrides = None, as_json: Json = False, quiet: Quiet = False
) -> None:
    """Stage 1, learn to see: frames of D_U, DAE, beta-VAEs.

    Collects the frames with an exploration policy, trains the denoising autoencoder on them, then
    the beta-VAE in its feature space, and those of `entangled` and `beta-vae` where
    agents.perceptions asks for them. What is finished is not repeated.
    """
    tree = pipeline.load(config, overrides)
    _print(pipeline.run_stage_one(tree, quiet), as_json)


@_command(app, "train", "darla train lab-quick --perception darla --seed 0")
def train_command(
    config: ConfigWord,
    overrides: Overrides = None,
    algorithm: Annotated[
        list[str] | None,
        typer.Option(help="Only this algorithm; may be repeated.", show_default=False),
    ] = None,
    perception: Annotated[
        list[str] | None,
        typer.Option(help="Only this perception; may be repeated.", show_default=False),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Only this seed; may be repeated.", show_default=False)
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Stage 2, learn to act: policies in D_S.

    Trains every cell of the configuration, or those named. A cell is one algorithm on one
    perception with one seed.
    """
    from agents.cells import cells_of

    tree = pipeline.load(config, overrides)
    cells = _narrowed(cells_of(tree), algorithm=algorithm, perception=perception, seed=seed)
    pipeline.check_cells(cells, tree)
    pipeline.check_machine(tree, frames=any(cell.perception != "factors" for cell in cells))
    pipeline.check_actions(cells, tree)
    with pipeline.open_run(tree) as run:
        pipeline.train(run, cells, quiet)
        stages = run.status()["stages"]
        _print({cell.id: stages[f"train/{cell.id}"]["facts"] for cell in cells}, as_json)


@_command(app, "transfer", "darla transfer lab-quick --protocol lab-single")
def transfer_command(
    config: ConfigWord,
    overrides: Overrides = None,
    protocol: Protocol = None,
    fresh: Fresh = None,
    salt_file: SaltFile = None,
    allow_unfinished: Unfinished = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Stage 3, transfer: zero-shot scores in D_T.

    Scores every trained cell, without further learning, in D_S and D_T and prints the table.
    """
    from agents.cells import cells_of

    tree = pipeline.load(config, overrides)
    suite = _suite_to_score(tree, protocol, fresh, salt_file)
    cells = cells_of(tree)
    with pipeline.open_run(tree, create=False) as run:
        pipeline.check_machine(tree)
        results = pipeline.transfer(
            run, cells, quiet, suites=[suite], allow_unfinished=allow_unfinished
        )
        _answer(results if suite.name == tree.suite else results["protocols"][suite.name], as_json)


@_command(app, "benchmark", "darla benchmark --tier dev")
def benchmark_command(
    overrides: Overrides = None,
    tier: Annotated[str, typer.Option(metavar="TIER", help="smoke, dev or full.")] = ...,  # type: ignore[assignment]
    world: Annotated[str, typer.Option(help="World of the domains.")] = "lab",
    allow_unfinished: Unfinished = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Trains and scores all rows of the benchmark, and writes the report.

    Cells are trained side by side, as many as there are CPUs for, and then scored on every
    protocol; the same command again continues. With --allow-unfinished nothing is trained.
    """
    from benchmarks.tiers import get_tier

    row = get_tier(tier, world)
    trees = [pipeline.load(name, overrides) for name in row.configs]
    for tree in trees:
        results = pipeline.run_benchmark(
            tree, row.protocols, quiet, allow_unfinished=allow_unfinished
        )
        _answer(results, as_json)
        pipeline.say(quiet, f"report: {Path(tree.runs) / tree.name / 'report.html'}")


@_command(app, "fresh", "darla fresh --tag v0.1 --salt-file salt.txt")
def fresh_command(
    tag: Annotated[str, typer.Option(metavar="TAG", help="Release that will be evaluated.")] = ...,  # type: ignore[assignment]
    salt_file: Annotated[
        Path, typer.Option(metavar="FILE", help="Holds the salt, secret until the evaluation.")
    ] = ...,  # type: ignore[assignment]
    protocol: Annotated[
        str | None,
        typer.Option(metavar="SUITE", help="List the targets, which ends their secrecy."),
    ] = None,
    plugin: Annotated[
        str | None, typer.Option(help="As environment.plugin.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Prints the digest that commits to fresh targets.

    Publish the digest before the evaluation, the salt with it: `darla transfer CONFIG --protocol
    lab-single --fresh TAG --salt-file FILE` then scores on targets that nobody could tune on.
    """
    from envs.protocols import commitment
    from envs.registry import get_suite

    salt = _read_salt(salt_file)
    answer: dict[str, Any] = {"tag": tag, "digest": commitment(tag, salt)}
    if protocol is not None:
        drawn = _fresh(get_suite(protocol, plugin), tag, salt)
        answer |= {"suite": drawn.name, "targets": [domain.id for domain in drawn.d_t]}
    _print(answer, as_json)


@_command(app, "submit", "darla submit lab runs=/shared/runs --address http://head:8265")
def submit_command(
    config: ConfigWord,
    overrides: Overrides = None,
    address: Annotated[
        str, typer.Option(metavar="URL", help="Dashboard of the cluster, such as http://head:8265.")
    ] = ...,  # type: ignore[assignment]
    wait: Annotated[
        bool, typer.Option(help="Show the log until the job ends, and exit with its status.")
    ] = True,
    pip: Annotated[
        bool,
        typer.Option(
            "--pip",
            help="Install this machine's versions of the dependencies on the nodes, which are "
            "expected to have them otherwise.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Runs `darla run` as a job on a Ray cluster.

    The packages and the resolved configuration are uploaded. The run directory must lie on storage
    that all nodes share: give runs=/FOLDER. The same run submitted again continues.
    """
    from agents.cells import cells_of
    from darla.jobs import follow, follow_command, submit

    tree = pipeline.load(config, overrides)
    pipeline.check_cells(cells_of(tree), tree)
    job = submit(tree, address, pip=pip)
    run = str(Path(tree.runs) / tree.name)
    commands = {
        "follow": follow_command(job, address),
        "stop": f"ray job stop --address {address} {job}",
    }
    _print({"job": job, "run": run, **commands}, as_json)
    if not wait:
        return
    try:
        status = follow(job, address, lambda text: print(text, end="", file=sys.stderr, flush=True))
    except KeyboardInterrupt:
        print("darla: interrupted, but the job goes on; see above", file=sys.stderr)
        raise SystemExit(130) from None
    raise SystemExit(status)


@_command(app, "tune", "darla tune lab-quick --grid vision.vae.beta=[4,16] --seeds [0,1]")
def tune_command(
    config: ConfigWord,
    overrides: Overrides = None,
    grid: Grid = None,
    seeds: Seeds = None,
    only_vision: Annotated[
        bool,
        typer.Option("--only-vision", help="Train visions, and no policies on them."),
    ] = False,
    cpus: TrialCpus = 1.0,
    gpus: TrialGpus = 0.0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Runs a grid of settings or seeds with Ray Tune.

    A trial does what `darla run` does, or `darla pretrain` with `--only-vision`, in a run directory
    of its own; the same command again continues. Choose by the object error and the source scores
    of the table: a setting that is chosen by its target scores has seen the target, and what it
    scores there is no transfer.
    """
    from darla.tuning import outcome_table

    work = pipeline.run_stage_one if only_vision else pipeline.run_stages
    rows, failed = _swept(config, overrides, grid, seeds, cpus, gpus, quiet, work)
    if as_json:
        _print({"trials": rows}, as_json)
    else:
        _print_table(outcome_table(rows))
    pipeline.refuse_failed(failed, len(rows), "trials")


@_command(app, "study", "darla study lab-study --grid vision.vae.beta=[1,4,16] --seeds [0,1,2]")
def study_command(
    config: ConfigWord,
    overrides: Overrides = None,
    grid: Grid = None,
    seeds: Seeds = None,
    cpus: TrialCpus = 1.0,
    gpus: TrialGpus = 0.0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Asks whether disentangled visions transfer better.

    Runs a grid as `darla tune` does, correlates the disentanglement of its visions with the scores
    of the policies on them (Spearman, bootstrap over visions) and writes study.json and scatter.png
    into RUNS/NAME-study/. The same command again continues.
    """
    import numpy as np

    from darla.study import study, write_study

    rows, failed = _swept(config, overrides, grid, seeds, cpus, gpus, quiet)
    tree = pipeline.load(config, overrides)
    folder = Path(tree.runs) / f"{tree.name}-study"
    result = study(rows, np.random.default_rng(tree.transfer.seed))
    write_study(result, folder)
    _print(result["correlations"], as_json)
    pipeline.say(quiet, f"study: {folder / 'study.json'}")
    pipeline.refuse_failed(failed, len(rows), "trials")


@_command(app, "shapes", "darla shapes shapes-beta4 --seeds [0,1,2,3,4]")
def shapes_command(
    config: ConfigWord,
    overrides: Overrides = None,
    seeds: Annotated[
        str | None,
        typer.Option(metavar="[0,1]", help="Seeds, each a run of its own.", show_default=False),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Trains a beta-VAE on 2D shapes and scores its disentanglement.

    Of the configuration only `vision` and `shapes` count. Pictures, scores and the capacity at
    which each factor entered lie in RUNS/NAME/vision/; the same command again continues.
    """
    from darla.vision.shapes_experiment import check_shapes, summary_table, train_shapes

    if seeds is None:
        trees = [pipeline.load(config, overrides)]
    else:
        from darla.tuning import make_variants

        trees = [each.config for each in make_variants(config, overrides or [], [], seeds)]
    reports = {}
    for tree in trees:
        check_shapes(tree)
    for tree in trees:
        with pipeline.open_run(tree) as run:
            done = run.status()["stages"].get("shapes", {})
            reports[tree.name] = (
                done["facts"] if done.get("finished") else train_shapes(tree, run, quiet=quiet)
            )
    if as_json:
        _print(reports, as_json)
    else:
        _print_table(summary_table(reports))


@_command(app, "report", "darla report runs/lab-quick")
def report_command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run directories.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="HTML",
            help="The page to write; of a single run it is RUN/report.html by default.",
        ),
    ] = None,
    markdown: Annotated[
        bool,
        typer.Option(
            "--markdown", help="Print the tables of scores as Markdown, and write nothing."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Writes the report of run directories.

    Makes results.json and results.csv of each anew from the scores that are there, and one page
    of all of them; what is not there yet, the page says.
    """
    from benchmarks.report import write_report
    from benchmarks.results import write_results
    from darla.rundir import RunDirectory
    from envs.registry import suite_of

    opened = [RunDirectory.load(path) for path in runs]
    if markdown:
        if output is not None or as_json:
            raise ConfigError("--markdown prints and writes nothing; leave out -o and --json")
        _print_markdown(opened)
        return
    if output is None and len(opened) > 1:
        raise ConfigError("a report of several runs needs a name: add -o report.html")
    page = output or opened[0].report
    if page.suffix != ".html":
        raise ConfigError(f"'{page}' must end in .html")
    for run in opened:
        suite_of(run.config)  # without it, a good report would be replaced by a poorer one
    for run in opened:
        if run.scored:
            write_results(run)
    write_report([run.path for run in opened], page)
    _print({"report": str(page)}, as_json)


def _print_markdown(runs: list[RunDirectory]) -> None:
    """Prints the tables of scores of run directories."""
    from benchmarks.results import results_of
    from benchmarks.tables import markdown_table

    for run in runs:
        if not run.scored:
            pipeline.say(False, f"{run.path}: nothing is scored yet")
            continue
        results = results_of(run)
        print(markdown_table(results))
        for name, part in results.get("protocols", {}).items():
            print(f"`{name}`:\n\n{markdown_table(part)}")


@_command(app, "replay", "darla replay runs/lab-quick --domain lab/B/hat-can --worst")
def replay_command(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)
    ],
    cell: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Who plays, such as dqn-darla-s0; by default the first that is trained, on DARLA "
            "if any is.",
        ),
    ] = None,
    protocol: Protocol = None,
    domain: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID",
            help="Where; may be repeated. By default the first source and the first target.",
            show_default=False,
        ),
    ] = None,
    episode: Annotated[
        int | None,
        typer.Option(help="Number of the scored episode, from 0; 0 by default.", min=0),
    ] = None,
    best: Annotated[
        bool, typer.Option("--best", help="The scored episode of best return.")
    ] = False,
    worst: Annotated[bool, typer.Option("--worst", help="That of worst return.")] = False,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of other layouts than those that were scored.", min=0),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="By default RUN/replay/replay.html."),
    ] = None,
    format: Annotated[str, typer.Option(help="html, gif, mp4 or rrd (for Rerun).")] = "html",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Writes a page that plays scored episodes side by side.

    Plays them again, the same ones as in scores.jsonl, and shows what the policy saw, what the
    vision makes of it, and what was chosen by. The episodes are kept beside the page in files that
    other viewers can read (docs/replay.md).
    """
    from benchmarks.films import choose_writer
    from benchmarks.replay import choose_cell, choose_domains, record_episodes
    from darla.rundir import RunDirectory
    from envs.registry import protocol_of

    asked = {
        "--episode": episode is not None,
        "--best": best,
        "--worst": worst,
        "--seed": seed is not None,
    }
    given = [option for option, there in asked.items() if there]
    if len(given) > 1 and given != ["--episode", "--seed"]:
        raise ConfigError(f"{' and '.join(given)} exclude each other; give one of them")
    write = choose_writer(format)
    opened = RunDirectory.load(run)
    page = output or opened.path / "replay" / f"replay.{format}"
    if page.suffix != f".{format}":
        raise ConfigError(f"'{page}' must end in .{format}, or give --format")
    suite = protocol_of(opened.config, protocol or opened.config.suite)
    player, domains = choose_cell(opened, cell), choose_domains(suite, domain or [])
    pipeline.check_machine(opened.config)
    which = "best" if best else "worst" if worst else None
    recordings = record_episodes(
        opened, suite, player, domains, episode=episode, which=which, seed=seed, quiet=quiet
    )
    write(recordings, page)
    rows = [
        {"domain": f.domain, "episode": f.episode, "return": f.outcome.return_}
        for f in (each.facts for each in recordings)
    ]
    _print({"replay": str(page), "cell": player.id, "episodes": rows}, as_json)


# -- around them -----------------------------------------------------------------------------------


@_command(app, "domains", "darla domains lab-quick -o sheet.png")
def domains_command(
    config: ConfigWord,
    overrides: Overrides = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="PNG", help="Draw what every domain looks like."),
    ] = None,
    digest: Annotated[
        bool,
        typer.Option("--digest", help="Add the SHA-256 of the frames of a fixed walk in each."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Lists or draws the domains of a suite.

    Tags: vision (in D_U), source (in D_S), target (in D_T); a target is policy-ood (the vision saw
    its parts) or encoder-ood (it has a part that the vision never saw).
    """
    from envs.registry import suite_of

    tree = pipeline.load(config, overrides)
    suite = suite_of(tree)
    if output is not None:
        _check_png(output)
        from envs.sheet import draw_sheet

        # Some simulators print.
        with redirect_stdout(sys.stderr):
            draw_sheet(tree, output)
        pipeline.say(False, f"sheet: {output}")
    rows: list[dict[str, Any]] = [
        {"id": domain.id, "tags": suite.tags(domain), "factors": domain.factors}
        for domain in suite.domains
    ]
    if digest:
        from envs.digest import frame_digest

        with redirect_stdout(sys.stderr):
            for row, domain in zip(rows, suite.domains, strict=True):
                row["digest"] = frame_digest(tree.environment, domain)
    if as_json:
        _print({"suite": suite.name, "domains": rows}, as_json)
    else:
        print(f"{suite.name}: {suite.about}")
        width = max(len(row["id"]) for row in rows)
        for row in rows:
            words = [row["id"].ljust(width), *filter(None, [row.get("digest")])]
            print("", *words, ", ".join(row["tags"]), sep="  ")


@_command(app, "doctor", "darla doctor")
def doctor_command(as_json: Json = False) -> None:
    """Says what this machine lacks, with remedies.

    Looks at OpenGL, torch, Ray, a compiler, versions, cores and disk. Exit status 2 when
    something is broken that a command needs.
    """
    from darla.doctor import diagnose

    checks = diagnose()
    if as_json:
        _print({"checks": [vars(check) for check in checks]}, as_json)
    else:
        for check in checks:
            print(f"{check.state:8} {check.name:9} {check.found}")
            if check.remedy:
                print(f"{'':18} -> {check.remedy}")
    broken = [check.name for check in checks if check.state == "broken"]
    if broken:
        raise DependencyError(f"broken: {', '.join(broken)}")


@_command(config_app, "show", "darla config show lab-quick vision.vae.beta=2")
def show_command(config: ConfigWord, overrides: Overrides = None, as_json: Json = False) -> None:
    """Prints every value of a configuration, defaults included."""
    from darla.config import to_yaml

    tree = pipeline.load(config, overrides)
    if as_json:
        _print(tree.model_dump(mode="json"), as_json)
    else:
        print(to_yaml(tree), end="")


@_command(config_app, "schema", "darla config schema")
def schema_command(as_json: Json = False) -> None:
    """Prints every key with its type, range, default and meaning."""
    from darla.config import schema

    rows = schema()
    if as_json:
        _print([vars(row) for row in rows], as_json)
        return
    for row in rows:
        setting = f"{row.key}: {row.default or '(required)'}"
        print(f"{setting:46}  {row.allowed}\n    {row.description}")


# -- what options mean -----------------------------------------------------------------------------


def _suite_to_score(
    config: Config, protocol: str | None, fresh: str | None, salt_file: Path | None
) -> Suite:
    """Returns the suite that a run is scored on."""
    from envs.registry import protocol_of

    suite = protocol_of(config, protocol or config.suite)
    if (fresh is None) != (salt_file is None):
        raise ConfigError("--fresh TAG and --salt-file FILE go together")
    if fresh is None or salt_file is None:
        return suite
    return _fresh(suite, fresh, _read_salt(salt_file))


def _fresh(suite: Suite, tag: str, salt: str) -> Suite:
    from envs.protocols import Protocol, fresh_targets

    if not isinstance(suite, Protocol):
        raise ConfigError(
            f"suite '{suite.name}' is no table of shifts, from which targets could be drawn; "
            "give --protocol, such as lab-single"
        )
    return fresh_targets(suite, tag, salt)


def _read_salt(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the salt in '{path}': {error}") from error


def _swept(
    config: str,
    overrides: Sequence[str] | None,
    grid: Sequence[str] | None,
    seeds: str | None,
    cpus: float,
    gpus: float,
    quiet: bool,
    work: Callable[[Config], object] = pipeline.run_stages,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Runs a sweep; returns its outcomes, and what went wrong by the name of the run."""
    from agents.cells import cells_of
    from darla.tuning import make_variants, outcomes, sweep

    if not grid and seeds is None:
        raise ConfigError("nothing varies; give --grid KEY=[A,B] or --seeds [0,1]")
    pipeline.load(config, overrides)
    variants = make_variants(config, overrides or [], grid or [], seeds)
    for variant in variants:
        pipeline.check_cells(cells_of(variant.config), variant.config)
    failed = sweep(variants, work, cpus=cpus, gpus=gpus, quiet=quiet)
    return outcomes(variants), failed


def _narrowed(cells: Sequence[Cell], **wanted: Sequence[Any] | None) -> list[Cell]:
    """Returns the cells whose attributes are among those wanted; None wants all."""
    for attribute, values in wanted.items():
        known = dict.fromkeys(getattr(cell, attribute) for cell in cells)
        for value in values or []:
            if value not in known:
                names = [str(name) for name in known]
                raise ConfigError(
                    f"this configuration has no {attribute} '{value}'"
                    f"{did_you_mean(str(value), names)}; it has {', '.join(names)}"
                )
    return [
        cell
        for cell in cells
        if all(not values or getattr(cell, key) in values for key, values in wanted.items())
    ]


def _check_png(path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise ConfigError(f"'{path}' must end in .png")
    if path.is_dir():
        raise ConfigError(f"'{path}' is a folder; give the name of a PNG file")
    if path.is_file() and path.read_bytes()[: len(PNG)] != PNG:
        raise ConfigError(f"'{path}' exists and is no PNG picture; it is left alone")


# -- answers ---------------------------------------------------------------------------------------


def _print(value: Any, as_json: bool) -> None:
    """Prints an answer as JSON, or as YAML, which reads better."""
    if as_json:
        print(json.dumps(value, indent=2))
        return
    import yaml

    print(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), end="")


def _answer(results: dict[str, Any], as_json: bool) -> None:
    """Prints scores as a table."""
    if as_json:
        _print(results, as_json)
        return
    from benchmarks.tables import terminal_table

    _print_table(terminal_table(results))


def _print_table(table: Table) -> None:
    from rich.console import Console

    width = None if sys.stdout.isatty() else 120
    Console(width=width).print(table)


if __name__ == "__main__":
    main()
