"""FastIoT's project configuration."""

project_namespace = "complex_system"
library_package = "complex_system"
integration_test_deployment = "integration_test"
test_package = "../tests"  # FastIoT looks in src/
# FastIoT leaves an extension out in silence when its import fails; `python -c "import complex_system.cli.start"` says why.
extensions = [
    "complex_system.cli.start",
    "complex_system.cli.extras",
    "complex_system.cli.backup",
    "complex_system.cli.predict",
    "complex_system.cli.champion",
    "complex_system.infrastructure",
]
