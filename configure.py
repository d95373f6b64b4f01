"""FastIoT's project configuration."""

from complex_system.deploy.project import EXTENSIONS

project_namespace = "complex_system"
library_package = "complex_system"
integration_test_deployment = "integration_test"
test_package = "../tests"  # FastIoT looks in src/
# FastIoT leaves an extension out in silence when its import fails; `python -c "import complex_system.cli.start"` says why.
extensions = EXTENSIONS
