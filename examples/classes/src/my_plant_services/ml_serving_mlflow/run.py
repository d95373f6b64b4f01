"""Runs the service."""

from my_plant_services.ml_serving_mlflow.ml_serving_mlflow_service import MlServingMlflowService

if __name__ == "__main__":
    MlServingMlflowService.main()
