"""FastIoT's project configuration."""

project_namespace = "complex_system"
library_package = "complex_system"
integration_test_deployment = "integration_test"
test_package = "../tests"  # FastIoT looks in src/
# FastIoT leaves an extension out in silence when its import fails; `python -c "import complex_system.cli"` says why.
extensions = [
    "complex_system.cli",
    "complex_system.messaging.cli",
    "complex_system.backup.cli",
    "complex_system.predict.cli",
    "complex_system.infrastructure",
]
