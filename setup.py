"""The packages of the wheel: those below ``mtl/``, and ``conf/`` as ``mtl/conf/``. All else is in pyproject.toml."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[
        *find_namespace_packages(include=["mtl*"], exclude=["*__pycache__*"]),
        "mtl.conf",
        *(f"mtl.conf.{group}" for group in find_namespace_packages("conf")),
    ],
    package_dir={"mtl.conf": "conf"},
)
