"""How wide is the valley: curvature, flatness and local entropy of any model.

Nothing here imports the optimizer: it judges Keras models however trained.
"""

# ruff: noqa: E402 (the packages are looked for before anything needs them)
from entropy_keras import requirements as _requirements

_requirements.check_packages(
    __name__, "landscape", "psutil", "scipy", "tensorflow_probability"
)

from entropy_keras.landscape.calibration import expected_calibration_error
from entropy_keras.landscape.calibration import fit_temperature
from entropy_keras.landscape.calibration import log_loss
from entropy_keras.landscape.callback import FlatnessCallback
from entropy_keras.landscape.chains import Chains
from entropy_keras.landscape.density import Estimate
from entropy_keras.landscape.density import Spectrum
from entropy_keras.landscape.entropy import EntropyGradientEstimate
from entropy_keras.landscape.entropy import estimate_local_entropy
from entropy_keras.landscape.entropy import local_entropy
from entropy_keras.landscape.entropy import local_entropy_gradient
from entropy_keras.landscape.entropy_estimators import LocalEntropyEstimate
from entropy_keras.landscape.exact import LocalEntropy
from entropy_keras.landscape.exact import flat_local_entropy
from entropy_keras.landscape.exact import local_entropy_1d
from entropy_keras.landscape.exact import moreau_envelope_1d
from entropy_keras.landscape.exact import quadratic_local_entropy
from entropy_keras.landscape.fisher import fisher_diagonal
from entropy_keras.landscape.fisher import fisher_from_adam
from entropy_keras.landscape.flatness import flatness_report
from entropy_keras.landscape.hessian import hessian_matrix
from entropy_keras.landscape.lanczos import Extremes
from entropy_keras.landscape.lanczos import share_bounds
from entropy_keras.landscape.objective import Objective
from entropy_keras.landscape.pictures import layer_traces
from entropy_keras.landscape.pictures import plot_layer_traces
from entropy_keras.landscape.pictures import plot_spectra
from entropy_keras.landscape.pictures import plot_training_path
from entropy_keras.landscape.plan import Plan
from entropy_keras.landscape.predictions import LocalPredictions
from entropy_keras.landscape.predictions import Predictor
from entropy_keras.landscape.predictions import local_predictions
from entropy_keras.landscape.products import gauss_newton_operator
from entropy_keras.landscape.products import gauss_newton_vector_product
from entropy_keras.landscape.products import hessian_operator
from entropy_keras.landscape.products import hessian_vector_product
from entropy_keras.landscape.products import restricted_operator
from entropy_keras.landscape.products import symmetric_operator
from entropy_keras.landscape.products import weight_indices
from entropy_keras.landscape.report import FlatnessReport
from entropy_keras.landscape.report import Measured
from entropy_keras.landscape.scores import fisher_operator
from entropy_keras.landscape.sharpness import epsilon_sharpness
from entropy_keras.landscape.sharpness import local_energy
from entropy_keras.landscape.sharpness import pac_bayes_sigma
from entropy_keras.landscape.sharpness import sam_sharpness
from entropy_keras.landscape.slices import Slice
from entropy_keras.landscape.slices import loss_slice
from entropy_keras.landscape.slices import loss_surface
from entropy_keras.landscape.solving import inverse_vector_product
from entropy_keras.landscape.solving import log_determinant
from entropy_keras.landscape.spectrum import hessian_spectrum
from entropy_keras.landscape.spectrum import spectral_density
from entropy_keras.landscape.spectrum import top_eigenvalues
from entropy_keras.landscape.theory import Constants
from entropy_keras.landscape.theory import smoothed_constants
from entropy_keras.landscape.theory import smoothed_curvature
from entropy_keras.landscape.theory import stability_bound
from entropy_keras.landscape.theory import stability_ratio
from entropy_keras.landscape.traces import Trace
from entropy_keras.landscape.traces import trace

__all__ = [
    "Chains",
    "Constants",
    "EntropyGradientEstimate",
    "Estimate",
    "Extremes",
    "FlatnessCallback",
    "FlatnessReport",
    "LocalEntropy",
    "LocalEntropyEstimate",
    "LocalPredictions",
    "Measured",
    "Objective",
    "Plan",
    "Predictor",
    "Slice",
    "Spectrum",
    "Trace",
    "epsilon_sharpness",
    "estimate_local_entropy",
    "expected_calibration_error",
    "fisher_diagonal",
    "fisher_from_adam",
    "fisher_operator",
    "fit_temperature",
    "flat_local_entropy",
    "flatness_report",
    "gauss_newton_operator",
    "gauss_newton_vector_product",
    "hessian_matrix",
    "hessian_operator",
    "hessian_spectrum",
    "hessian_vector_product",
    "inverse_vector_product",
    "layer_traces",
    "local_energy",
    "local_entropy",
    "local_entropy_1d",
    "local_entropy_gradient",
    "local_predictions",
    "log_determinant",
    "log_loss",
    "loss_slice",
    "loss_surface",
    "moreau_envelope_1d",
    "pac_bayes_sigma",
    "plot_layer_traces",
    "plot_spectra",
    "plot_training_path",
    "quadratic_local_entropy",
    "restricted_operator",
    "sam_sharpness",
    "share_bounds",
    "smoothed_constants",
    "smoothed_curvature",
    "spectral_density",
    "stability_bound",
    "stability_ratio",
    "symmetric_operator",
    "top_eigenvalues",
    "trace",
    "weight_indices",
]
