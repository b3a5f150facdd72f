"""Programs that use outlast as its users do."""
