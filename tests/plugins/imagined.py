"""A corpus engine with workers on paper: it embeds in this process and says how long so many workers would have taken."""

from dataclasses import dataclass

from harness.corpus import whole_batches

EXPONENT = 0.8
SECONDS_AN_ITEM = 0.01


@dataclass(frozen=True)
class Imagined:
    workers: int = 2
    threads: int | None = None
    shard_items: int = 1024

    def violations(self, *, device):
        return []

    def embed(self, work, keep, *, device, shards, told):
        done = 0
        for run in whole_batches(work, self.shard_items):
            for part in work.embed(run):
                keep(part)
            done += len(run)
            told(done)
        about = {"engine": "imagined", "workers": self.workers, "threads_each": self.threads, "shard_items": self.shard_items}
        return {**about, "items": done, "seconds": done * SECONDS_AN_ITEM / self.workers**EXPONENT, "machines": 1}
