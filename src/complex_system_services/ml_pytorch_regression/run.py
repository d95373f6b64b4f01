"""Runs the service."""

from complex_system_services.ml_pytorch_regression.ml_pytorch_regression_service import MlPytorchRegressionService

if __name__ == "__main__":
    MlPytorchRegressionService.main()
