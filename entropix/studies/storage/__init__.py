"""`entropix storage`: what a network stores of data, the more samples it is trained on."""

from entropix.studies.storage.fit import LogFit as LogFit
from entropix.studies.storage.fit import fit_logarithm as fit_logarithm
from entropix.studies.storage.memorisation import nearest_ratio as nearest_ratio
from entropix.studies.storage.options import StorageEstimation as StorageEstimation
from entropix.studies.storage.options import StorageOptions as StorageOptions
from entropix.studies.storage.options import StorageTraining as StorageTraining
from entropix.studies.storage.plan import StoragePlan as StoragePlan
from entropix.studies.storage.plan import prepare_storage as prepare_storage
from entropix.studies.storage.study import run_storage as run_storage
from entropix.studies.storage.study import storage as storage
