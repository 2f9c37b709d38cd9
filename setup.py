"""Installs what commands look up by name beside the package, so that it is found from a wheel, too.

In a checkout `configs/` and `launch/reference/` lie beside the package. pyproject.toml says everything else.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["sigma_jax*"]), "sigma_jax.configs", "sigma_jax.launch"],
    package_dir={"sigma_jax.configs": "configs", "sigma_jax.launch": "launch"},
    package_data={"sigma_jax.configs": ["*.py"], "sigma_jax.launch": ["reference/**/*"]},
)
