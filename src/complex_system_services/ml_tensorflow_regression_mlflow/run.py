"""Runs the service."""

from complex_system_services.ml_tensorflow_regression_mlflow.ml_tensorflow_regression_mlflow_service import (
    MlTensorflowRegressionMlflowService,
)

if __name__ == "__main__":
    MlTensorflowRegressionMlflowService.main()
