"""`commonart license-filter`: keep what a licence policy allows, and say why the rest went."""

from __future__ import annotations

from typing import Annotated

import typer

from commonart.cli import options


def license_filter(
    source: options.Source = None,
    out: options.Out = None,
    policy: Annotated[
        str, typer.Option(metavar="POLICY", help="Licence policy: strict, paper, or a TOML file.")
    ] = "strict",
    explain: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Licence to explain: what each policy decides, and why. Reads no SOURCE."),
    ] = None,
    observed_after: Annotated[
        str | None, typer.Option(metavar="DATE", help="Earliest day (UTC) on which a licence may have been observed.")
    ] = None,
    blocklist: options.Blocklist = "",
    min_captions: Annotated[
        int, typer.Option(min=0, help="Synthetic captions that a record must be left with; others are dropped.")
    ] = 0,
    accept_terms: options.AcceptTerms = None,
    rejects: options.Rejects = None,
    shard_size: options.ShardSize = 1000,
    task_index: options.TaskIndex = None,
    num_tasks: options.NumTasks = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Normalize every licence and keep what the policy allows.

    strict: CC0, PDDL and CC BY (any version, ported ones too). paper: strict, the Public Domain Mark, Flickr's "no
    known restrictions" and US Government Work. A licence that is unknown is never allowed. Captions are removed whose
    maker's terms or licence forbid it.

    \b
    commonart license-filter raw/ -o kept.jsonl
    commonart license-filter --explain "CC BY-SA 2.0"
    commonart license-filter --blocklist removed.txt --observed-after 2026-01-01 raw/ --rejects refused.jsonl
    """
    from commonart.core import log
    from commonart.core.data.tasks import this_task
    from commonart.stages import license_filter as stage

    if explain is not None:
        print(*stage.explain(explain, policy), sep="\n")
        return
    summary = stage.run(
        source,
        out,
        stage.Criteria.load(policy, observed_after, blocklist, min_captions, accept_terms or ()),
        rejects=rejects,
        shard_size=shard_size,
        task=this_task(task_index, num_tasks),
        overwrite=overwrite,
        quiet=quiet,
    )
    if log.on_terminal() and not quiet:
        log.say("\n".join(summary.table()))
    options.finish(summary, quiet)
