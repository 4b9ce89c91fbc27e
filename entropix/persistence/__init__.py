"""One codec for saved models, checkpoints in a file and checkpoints over many devices."""

from entropix.persistence.archive import package_version as package_version
from entropix.persistence.archive import read_archive as read_archive
from entropix.persistence.archive import write_archive as write_archive
from entropix.persistence.checkpoint import AbstractCheckpoint as AbstractCheckpoint
from entropix.persistence.checkpoint import Checkpoint as Checkpoint
from entropix.persistence.checkpoint import describe as describe
from entropix.persistence.save import load as load
from entropix.persistence.save import save as save
from entropix.persistence.sharded_checkpoint import ShardedCheckpoint as ShardedCheckpoint
