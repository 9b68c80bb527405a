from deployments.fixtures import (  # noqa: F401 (pytest finds fixtures by name in this module)
    background,
    database_server,
    deployment,
    deployment_kind,
    disks,
    folder,
    local_disks,
    three,
)
