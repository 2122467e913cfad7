"""The commands that carry weights: export."""

from __future__ import annotations

import json


def export(argv: list[str]) -> None:
    """fastmoco export CHECKPOINT --to FORMAT"""
    from fastmoco.flags import parse
    from fastmoco.weights_flags import ExportArgs

    args = parse(ExportArgs, argv, "export")
    from fastmoco import console
    from fastmoco.export import export
    from fastmoco.interop import open_checkpoint

    saved = open_checkpoint(args.checkpoint)
    if saved.origin and not args.json:
        console.say(f"{args.checkpoint}: {saved.origin}")
    beside = args.checkpoint if args.checkpoint.is_dir() else args.checkpoint.parent
    out = args.out or beside / f"export-{args.to}"
    files = export(saved, args.checkpoint, args.to, out, args.with_config)
    sizes = {str(path): path.stat().st_size for path in files}
    if args.json:
        print(json.dumps({
            "checkpoint": str(args.checkpoint), "to": args.to, "out": str(out), "files": sizes,
        }, indent=1))
        return
    for path, size in sizes.items():
        console.say(f"{path}  {size / 1e6:,.1f} MB" if size >= 1e5 else f"{path}  {size:,} B")
    console.say(f"{out / 'README.md'} says how to use it")
