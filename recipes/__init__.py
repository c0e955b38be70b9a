"""The recipes, installed as `keras_resnet_recipes`."""
