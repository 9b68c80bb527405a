# ruff: noqa: T201 - printing is what a notebook's cells are for
# %% [markdown]
# # A virtual directory over several storage services, in a notebook
#
# Open this file as a notebook (every editor that knows `# %%` cells does), or run it as it is: `python notebook.py`.
# It works in a temporary place of its own and touches nothing of yours.

# %%
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cdir

place = Path(tempfile.mkdtemp(prefix="cdir-notebook-", dir="/tmp"))
os.environ["CDIR_HOME"] = str(place / "home")

# %% [markdown]
# `start=True` starts the daemon in the background when none runs. The methods are those of the asynchronous client,
# which notebooks can use as well: `client = await cdir.connect(start=True)`.

# %%
client = cdir.connect_blocking(start=True)
print(client.server)

# %% [markdown]
# Three folders stand for three storage services here; `client.providers.kinds()` lists what else there is.

# %%
for name in ("attic", "cellar", "office"):
    client.providers.add(name, "local", {"root": str(place / name)})
print([(provider.name, provider.state.value) for provider in client.providers.list()])

# %% [markdown]
# Every file that is written goes to all of them.

# %%
outcome = client.write("/notes/today.txt", b"Buy more disks.\n")
print(f"{outcome.entry.path}: {outcome.entry.size} bytes on {', '.join(outcome.stored)}")

report = client.put(Path(cdir.__file__).parent, "/sources", recursive=True)
print(f"{report.files} files, {report.bytes} bytes in {report.seconds:.1f} s, {report.owed} copies owed")

# %%
for entry in client.list("/sources"):
    print(f"{entry.size:>8}  {entry.name}")

# %%
for replica in client.file_status("/notes/today.txt").replicas:
    print(replica.provider, replica.state.value, replica.key)

# %% [markdown]
# Reading takes whichever copy answers best, verifies every byte, and can be asked for a part.

# %%
print(client.read("/notes/today.txt").decode(), end="")
print(client.read("/notes/today.txt", offset=4, length=4).decode())

# %% [markdown]
# One service fails; nothing is lost, and what it misses is owed to it.

# %%
(place / "cellar").rename(place / "cellar.away")
client.write("/notes/later.txt", b"Written while the cellar was away.\n")
print(client.read("/notes/today.txt").decode(), end="")
print("owed:", client.tree_status().owed)

# %%
client.close()

# %% [markdown]
# The daemon goes on; `cdir down` stops it, and the next cell does the same for this temporary one.

# %%
subprocess.run([sys.executable, "-m", "cdir.cli", "down"], check=True)
shutil.rmtree(place)
