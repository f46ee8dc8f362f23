"""Networks: plain `nn.Module`s. `registry` names them; `settings` loads without torch."""
