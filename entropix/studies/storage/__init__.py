"""`entropix storage`: what a network stores of data, by the number of its training samples."""

from entropix.studies.options import StorageEstimation as StorageEstimation
from entropix.studies.options import StorageOptions as StorageOptions
from entropix.studies.options import StorageTraining as StorageTraining
from entropix.studies.storage.fit import LogFit as LogFit
from entropix.studies.storage.fit import fit_logarithm as fit_logarithm
from entropix.studies.storage.memorisation import nearest_ratio as nearest_ratio
from entropix.studies.storage.study import StorageStudy as StorageStudy
from entropix.studies.storage.study import prepare_storage as prepare_storage
from entropix.studies.storage.study import storage as storage
