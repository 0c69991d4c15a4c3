"""Making a trained model public: gate, export, model card, push to a hub."""
