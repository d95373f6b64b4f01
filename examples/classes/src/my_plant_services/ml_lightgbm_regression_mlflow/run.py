"""Runs the service."""

from my_plant_services.ml_lightgbm_regression_mlflow.ml_lightgbm_regression_mlflow_service import (
    MlLightgbmRegressionMlflowService,
)

if __name__ == "__main__":
    MlLightgbmRegressionMlflowService.main()
