"""Puts the peers into a private folder. What is there and unchanged is kept, so a second run starts at once."""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
GGML_SDIST = "llama-cpp-python==0.3.36"  # carries ggml 0.25.3
CMAKE = "cmake==4.4.4"
TORCH_BYTES = 8 << 30  # free disk that its installation wants: 4.3 GB stay, the wheels come on top


class Unavailable(Exception):
    """A peer that cannot be had here, and why."""


class Installation:
    """The folder, and the commands that start each peer's driver."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.venv = self.folder / "venv"
        self.python = self.venv / "bin" / "python"
        self.seconds = {}

    def command(self, name):
        if name in ("peak", "ggml"):
            return [str(self.folder / {"peak": "peak", "ggml": "ggml/ggml_driver"}[name])]
        script = {"ort": "ort.py", "torch": "torch_chunked.py"}[name]
        return [str(self.python), "-B", "-W", "ignore", str(HERE / script)]

    def install(self, name):
        """Installs `peak`, `ort`, `ggml` or `torch`; raises Unavailable."""
        recipe = getattr(self, f"_{name}")
        start = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        recipe()
        self.seconds[name] = round(time.monotonic() - start, 1)

    def _run(self, what, *command):
        """Runs at low priority; a failure shows the end of what the command printed."""
        done = subprocess.run(
            [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, preexec_fn=lambda: os.nice(10))
        if done.returncode:
            tail = "\n".join(done.stdout.strip().splitlines()[-8:])
            raise Unavailable(f"{what} failed:\n{tail}")
        return done.stdout

    def _once(self, name, inputs, action):
        """Runs the action unless its stamp holds these inputs."""
        stamp = self.folder / f"{name}.stamp"
        digest = hashlib.sha256("\0".join(map(str, inputs)).encode()).hexdigest()
        if not (stamp.is_file() and stamp.read_text() == digest):
            print(f"peers: installing {name} ...", file=sys.stderr, flush=True)
            stamp.unlink(missing_ok=True)
            action()
            stamp.write_text(digest)

    def _pip(self, what, *arguments):
        if not self.python.is_file():
            self._run("python3 -m venv", sys.executable, "-m", "venv", self.venv)
        self._run(f"pip, for {what},", self.python, "-m", "pip", "--no-input", "--disable-pip-version-check",
                  *arguments)

    def _peak(self):
        compiler, source = os.environ.get("CC", "cc"), HERE / "peak.c"
        if not shutil.which(compiler):
            raise Unavailable(f"no C compiler ({compiler})")
        self._once("peak", [source.read_text(), compiler], lambda: self._run(
            "compiling peak.c", compiler, "-O3", "-o", self.folder / "peak", source))

    def _ort(self):
        listed = HERE / "requirements-ort.txt"
        self._once("ort", [listed.read_text(), sys.version], lambda: self._pip(
            "onnxruntime", "install", "--no-cache-dir", "-r", listed))

    def _torch(self):
        listed = HERE / "requirements-torch.txt"
        own = shlex.split(os.environ.get("SUBQUAD_PEERS_TORCH", ""))

        def install():
            if own:
                self._pip("torch", "install", "--no-cache-dir", "numpy==2.4.6", *own)
            else:
                free = shutil.disk_usage(self.folder).free
                if free < TORCH_BYTES:
                    raise Unavailable(f"{free >> 30} GiB of disk are free, {TORCH_BYTES >> 30} wanted")
                self._pip("torch", "install", "--no-cache-dir", "--no-deps", "-r", listed)
            self._run("import torch", self.python, "-c", "import torch")

        self._once("torch", [listed.read_text(), own, sys.version], install)

    def _ggml(self):
        source, build = self.folder / "ggml-source", self.folder / "ggml"
        self._once("ggml", [GGML_SDIST, (HERE / "CMakeLists.txt").read_text()],
                   lambda: self._unpack_ggml(source, build))
        # Again every time: it takes no time, and builds the driver when that has changed.
        jobs = os.environ.get("SUBQUAD_PEERS_JOBS", str(os.cpu_count() or 1))
        self._run("building ggml", self._cmake(), "--build", build, "--target", "ggml_driver", "-j", jobs)

    def _unpack_ggml(self, source, build):
        download = self.folder / "download"
        for folder in (source, build, download):
            shutil.rmtree(folder, ignore_errors=True)
        # Named, and not `:all:`: that would build the sdist's build tools, CMake among them, from source.
        self._pip("the ggml sources", "download", "--no-cache-dir", "--no-deps", "--no-binary",
                  GGML_SDIST.partition("==")[0], "-d", download, GGML_SDIST)
        with tarfile.open(next(download.glob("*.tar.gz"))) as archive:
            for member in archive:
                _, found, path = member.name.partition("/vendor/llama.cpp/ggml/")
                target = source / path
                if found and member.isfile() and source in target.resolve().parents:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.extractfile(member) as content, open(target, "wb") as copy:
                        shutil.copyfileobj(content, copy)
        shutil.rmtree(download)
        self._run("configuring ggml", self._cmake(), "-S", HERE, "-B", build, "-DCMAKE_BUILD_TYPE=Release",
                  f"-DGGML_SOURCE={source}")

    def _cmake(self):
        """The system's cmake, or one in the private environment."""
        found = shutil.which("cmake")
        if found:
            return found
        own = self.venv / "bin" / "cmake"
        if not own.is_file():
            self._pip("cmake", "install", "--no-cache-dir", CMAKE)
        return str(own)

    def flags(self):
        """How ggml and the peak were compiled, for the record."""
        cache = self.folder / "ggml" / "CMakeCache.txt"
        wanted = ("CMAKE_BUILD_TYPE", "CMAKE_C_FLAGS_RELEASE", "GGML_NATIVE", "GGML_OPENMP", "BUILD_SHARED_LIBS")
        found = {"peak": "-O3"}
        if cache.is_file():
            for line in cache.read_text().splitlines():
                name, _, value = line.partition("=")
                if name.partition(":")[0] in wanted:
                    found["ggml " + name.partition(":")[0]] = value
        return found
