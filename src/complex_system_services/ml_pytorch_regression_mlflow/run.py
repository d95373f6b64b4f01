"""Runs the service."""

from complex_system_services.ml_pytorch_regression_mlflow.ml_pytorch_regression_mlflow_service import (
    MlPytorchRegressionMlflowService,
)

if __name__ == "__main__":
    MlPytorchRegressionMlflowService.main()
