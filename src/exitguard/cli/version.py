"""`exitguard version`."""

from exitguard.cli.output import Json, emit, emit_json


def version(*, json: Json = False) -> None:
    """Tell which build this is: version, commit, build time, and the schema version that it needs."""
    from exitguard.config.build import build_info

    build = build_info()
    body = {
        "version": build.version,
        "git_commit": build.git_commit,
        "build_time": build.build_time.isoformat(),
        "schema_version": build.schema_version,
    }
    if json:
        emit_json(body)
        return
    emit(f"exitguard {build.version}")
    emit(f"git commit      {build.git_commit or 'unknown'}")
    emit(f"build time      {build.build_time.isoformat()}")
    emit(f"schema version  {build.schema_version}")
