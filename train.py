"""Train, validate, test or predict with any configuration: `python train.py fit --config ... --name NAME`."""

from mmig.run.programs import train

if __name__ == "__main__":
    train()
