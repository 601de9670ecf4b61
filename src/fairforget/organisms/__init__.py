"""Model organisms: generated languages with planted stereotypes and facts, and the small models trained on them.

An organism is the known truth that methods, metrics and the ledger are tested against: every stereotype has a stated strength, every fact
a stated frequency, and calibration says how much of it the model has taken up.
"""

from fairforget.organisms.calibration import CALIBRATION_SCHEMA, by_domain, calibrate
from fairforget.organisms.make import MadeOrganism, make_organism
from fairforget.organisms.many import make_organisms
from fairforget.organisms.recipe import BUILTIN_RECIPES, OrganismRecipe, read_organism_recipe
from fairforget.organisms.truth import TRUTH_SCHEMA, truth_table

__all__ = [
    "BUILTIN_RECIPES", "CALIBRATION_SCHEMA", "TRUTH_SCHEMA", "MadeOrganism", "OrganismRecipe", "by_domain", "calibrate", "make_organism",
    "make_organisms", "read_organism_recipe", "truth_table",
]
