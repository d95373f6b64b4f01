"""Runs the service."""

from complex_system_services.ml_serving_mlflow.ml_serving_mlflow_service import MlServingMlflowService

if __name__ == "__main__":
    MlServingMlflowService.main()
