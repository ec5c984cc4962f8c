"""`commonart ablate`: recipes compared under one budget, several seeds each."""

from __future__ import annotations

from typing import Annotated

import typer

from commonart.cli import options


def ablate(
    grid: Annotated[str, typer.Argument(metavar="GRID.toml", help="Recipe, budget, seeds and arms.")],
    data: Annotated[
        str, typer.Option(metavar="FOLDER", help="Shards, with or without cached features; A,B:0.5 to mix several.")
    ] = "shards/",
    out: Annotated[str, typer.Option("-o", "--out", metavar="FOLDER", help="Folder of the trials.")] = "ablation/",
    table: Annotated[
        bool, typer.Option("--table", help="Print the table of what is finished, and train nothing.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="The result as JSON.")] = False,
    policy: Annotated[
        str, typer.Option(metavar="POLICY", help="Licence policy of the records: strict, paper, or a TOML file.")
    ] = "paper",
    blocklist: options.Blocklist = "",
    skip_unlicensed: options.SkipUnlicensed = False,
    gpus: Annotated[int | None, typer.Option(min=1, metavar="N", help="Number of processes of each trial.")] = None,
    task_index: Annotated[
        int | None,
        typer.Option(min=0, help="Index of this task; it takes every --num-tasks-th trial (default: Slurm's)."),
    ] = None,
    num_tasks: Annotated[
        int | None, typer.Option(min=1, help="Number of tasks that share the trials (default: Slurm's).")
    ] = None,
    device: options.Device = "auto",
    precision: options.TrainingPrecision = "auto",
    accept_terms: options.AcceptTerms = None,
    quiet: options.Quiet = False,
) -> None:
    """Compare recipes under one budget of seconds, several seeds each.

    GRID.toml: recipe = "nano", seconds = 150 (or steps = 2000), seeds = [0, 1, 2], and for each recipe [[arm]] with
    name = "lr 7e-3" and set.lr = 7e-3. images = 500 and clip = "clip-vit-b32" score images of held-out captions, too.

    \b
    commonart ablate grid.toml --data shards/ -o ablation/
    commonart ablate grid.toml -o ablation/ --table
    sbatch --array=0-7 --wrap "commonart ablate grid.toml --data shards/ -o ablation/"
    """
    import orjson

    from commonart.core.data.tasks import this_task
    from commonart.core.settings import Settings
    from commonart.core.training import ablation, ablation_table
    from commonart.stages import ablate as stage

    read = ablation.read_grid(grid)
    summary = None
    if not table:
        settings = Settings(
            read.recipe, data=data, policy=policy, blocklist=blocklist, skip_unlicensed=skip_unlicensed, gpus=gpus,
            device=device, precision=precision, accept_terms=accept_terms or (), quiet=quiet,
        )  # fmt: skip
        settings.check()
        summary = stage.run(read, out, settings, this_task(task_index, num_tasks))
    result = stage.result(read, out)
    print(orjson.dumps(result, option=orjson.OPT_INDENT_2).decode() if json else ablation_table.table(result))
    if summary is not None:
        options.finish(summary, quiet)
