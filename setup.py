"""Packaging of entropy_keras; tool settings live in pyproject.toml."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"',
    (ROOT / "entropy_keras" / "version.py").read_text(encoding="utf-8"),
)

LANDSCAPE = [
    "matplotlib>=3.9",
    "psutil>=6",
    "scipy>=1.14",
    "tensorflow-probability[tf]>=0.25",
]

# Of `trainers` and `docs/gallery`, which lie beside the package.
TRAINERS = [
    *LANDSCAPE,
    # TensorFlow Datasets needs a newer protobuf than 2.19 allows.
    "tensorflow>=2.20",
    "absl-py>=2.1",
    # TensorFlow Datasets imports it and does not say so.
    "importlib_resources>=6",
    "mlxtend>=0.23",
    "scikit-learn>=1.5",
    "tensorboard>=2.19",
    "tensorflow-datasets>=4.9.10",
    "tqdm>=4.66",
]

setuptools.setup(
    name="entropy_keras",
    version=VERSION.group(1),
    description=(
        "Entropy-SGD for Keras 3: an optimizer and training package that "
        "biases gradient descent into wide valleys"
    ),
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The entropy_keras authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="keras tensorflow optimizer entropy-sgd flat-minima langevin",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    # The trainers run from a checkout and are not installed.
    packages=setuptools.find_packages(include=["entropy_keras*"]),
    package_data={"entropy_keras": ["py.typed"]},
    python_requires=">=3.10",
    # `.ci/versions` runs tests beside the oldest of these, and the newest.
    install_requires=["keras>=3.12", "numpy>=1.26", "tensorflow>=2.18"],
    extras_require={
        "landscape": LANDSCAPE,
        "trainers": TRAINERS,
        "cuda": ["tensorflow[and-cuda]>=2.18"],
        "docs": [
            "jupytext>=1.19",
            "mkdocs-material>=9.7",
            "mkdocstrings[python]>=1.0",
        ],
        "test": [
            *TRAINERS,
            "codespell>=2.4",
            "hypothesis>=6.100",
            "mypy>=2.4",
            "pytest>=8.3",
            "pytest-xdist>=3.6",
            "ruff>=0.17",
            "scikit-learn>=1.9",
        ],
    },
)
