"""How wide is the valley: curvature, flatness and local entropy of any model.

Nothing here imports the optimizer: it judges Keras models however trained.
"""

from entropy_keras.landscape.objective import Objective
from entropy_keras.landscape.products import gauss_newton_operator
from entropy_keras.landscape.products import gauss_newton_vector_product
from entropy_keras.landscape.products import hessian_operator
from entropy_keras.landscape.products import hessian_vector_product

__all__ = [
    "Objective",
    "gauss_newton_operator",
    "gauss_newton_vector_product",
    "hessian_operator",
    "hessian_vector_product",
]
