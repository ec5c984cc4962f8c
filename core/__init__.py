"""What the stages share: data, licences, models, training, generation, metrics and the embedded nano models."""
